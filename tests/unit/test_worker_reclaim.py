"""When idle instances go: by the owner's windows, else by the version's limit; never what is held, never a busy one."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mayfly_proto.states import Instance as State
from mayfly_worker.group import Instance
from mayfly_worker.holds import HOLD_S, Hold
from mayfly_worker.pool import Pool
from tests.unit.worker_pool import ready, take

TICK_S = 0.25


def test_keep_alive_counts_from_the_last_call() -> None:
    """An idle instance goes when its keep-alive is over, not before, and a busy one never."""
    pool = Pool(1000, 8)
    idle, busy = ready(pool, "i1", "i2", keep_alive_s=5.0)
    assert take(busy.group) is busy
    assert pool.reclaim(4.9) == []
    assert pool.reclaim(5.0) == [idle]
    assert pool.reclaim(100.0) == []
    busy.group.release(busy, 100.0)
    assert pool.reclaim(104.9) == []
    assert pool.reclaim(105.0) == [busy]


def test_hold_keeps_instances_beyond_their_keep_alive_until_it_expires() -> None:
    """So many ready instances stay; a hold that is not renewed is forgotten."""
    pool = Pool(1000, 8)
    first, second = ready(pool, "i1", "i2", keep_alive_s=1.0)
    pool.hold("hello", 1, Hold(1), 0.0)
    assert pool.reclaim(2.0) == [first]
    assert pool.reclaim(HOLD_S - 0.1) == []
    assert pool.reclaim(HOLD_S) == [second]


def test_the_last_instance_has_a_window_of_its_own() -> None:
    """Further ones leave after theirs, the longest idle first; the last one stays for its own."""
    pool = Pool(1000, 8)
    first, second, third = ready(pool, "i1", "i2", "i3")
    for instance, at in ((first, 1.0), (second, 2.0), (third, 3.0)):
        instance.group.members[instance.id].idle_since = at
    pool.hold("hello", 1, Hold(0, 30.0, 5.0), 3.0)
    assert pool.reclaim(5.9) == []
    assert pool.reclaim(7.0) == [first, second]
    assert pool.reclaim(32.9) == []
    assert pool.reclaim(33.0) == [third]


def test_beside_a_busy_one_every_idle_one_is_a_further_one() -> None:
    """The window of the last one says how long a function stays warm; while it is warm anyhow it has no meaning."""
    pool = Pool(1000, 8)
    idle, busy = ready(pool, "i1", "i2")
    assert take(busy.group) is busy
    pool.hold("hello", 1, Hold(0, 600.0, 5.0), 0.0)
    assert pool.reclaim(5.0) == [idle]


def test_a_shorter_window_of_the_last_one_lets_no_one_overtake() -> None:
    """The longest idle first, whatever the windows: the one used last does not leave before those that wait longer."""
    pool = Pool(1000, 8)
    first, second = ready(pool, "i1", "i2")
    pool.hold("hello", 1, Hold(0, 5.0, 60.0), 0.0)
    assert pool.reclaim(30.0) == []
    assert pool.reclaim(60.0) == [first, second]


def test_windows_end_with_the_owners_word() -> None:
    """After five minutes without it the version's own limit counts again; so it does when the owner says so."""
    pool = Pool(1000, 8)
    (instance,) = ready(pool, "i1", keep_alive_s=200.0, now=200.0)
    pool.hold("hello", 1, Hold(0, 600.0, 600.0), 200.0)
    assert pool.reclaim(200.0 + HOLD_S - 1) == []
    assert pool.reclaim(200.0 + HOLD_S) == [instance]
    (other,) = ready(pool, "i2", keep_alive_s=200.0, now=1000.0)
    pool.hold("hello", 1, Hold(0, 5.0, 5.0), 1000.0)
    pool.hold("hello", 1, Hold(), 1000.0)
    assert pool.reclaim(1010.0) == []
    assert pool.reclaim(1200.0) == [other]


WINDOWS = st.one_of(st.none(), st.floats(0.5, 100.0))


@pytest.mark.invariant("P11", "P13")
@given(
    idle_for=st.lists(st.floats(0.0, 200.0), max_size=12),
    busy=st.integers(0, 4),
    held=st.integers(0, 10),
    keep_alive_s=WINDOWS,
    further_s=WINDOWS,
)
def test_what_is_reclaimed_had_its_time_and_what_is_held_stays(
    idle_for: list[float], busy: int, held: int, keep_alive_s: float | None, further_s: float | None
) -> None:
    """Never busy, never below what is held, only after a whole window, the longest idle first; and nothing that may
    go is left behind, so that a function without calls is down to its floor one window later."""
    pool = Pool(10_000, 100)
    now = 200.0
    members = ready(pool, *(f"i{k}" for k in range(len(idle_for) + busy)), keep_alive_s=20.0)
    for instance in members:
        assert take(instance.group)
    idle = members[busy:]
    for instance, seconds in zip(idle, sorted(idle_for, reverse=True), strict=True):
        instance.group.release(instance, now - seconds)
    pool.hold("hello", 1, Hold(held, keep_alive_s, further_s), now)
    last_s = 20.0 if keep_alive_s is None else keep_alive_s
    limit_s = 20.0 if further_s is None else further_s
    gone = pool.reclaim(now)
    assert gone == idle[: len(gone)]
    assert all(instance.finished for instance in gone)
    left = len(members) - len(gone)
    assert left >= min(held, len(members))
    for position, instance in enumerate(gone):
        alone = len(members) - position == 1
        assert now - instance.idle_since >= (last_s if alone else limit_s)
    if left > held and len(gone) < len(idle):
        assert now - idle[len(gone)].idle_since < (last_s if left == 1 else limit_s)
    pool.reclaim(now + max(last_s, limit_s) + 0.001)
    stay = [instance for instance in members if instance.state in (State.IDLE, State.BUSY)]
    assert len(stay) == max(busy, min(held, len(members)))


@pytest.mark.invariant("S15")
@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    per_s=st.floats(0.2, 20.0),
    service_s=st.floats(0.05, 2.0),
    last_s=st.floats(2.0, 20.0),
    further_s=st.floats(2.0, 20.0),
)
def test_under_constant_load_an_instance_is_reclaimed_once_a_window_at_most(
    seed: int, per_s: float, service_s: float, last_s: float, further_s: float
) -> None:
    """Poisson arrivals: of the instances there were at the start of any window at most each one goes in it, so starts
    and reclaims cannot chase each other."""
    rng = random.Random(seed)
    pool = Pool(10**6, 10**6)
    pool.hold("hello", 1, Hold(0, last_s, further_s), 0.0)
    ends: list[tuple[float, Instance]] = []
    reclaimed: list[float] = []
    alive: list[tuple[float, int]] = []
    now, arrival, started = 0.0, rng.expovariate(per_s), 0
    while now < 120.0:
        now += TICK_S
        while arrival <= now:
            for end in [end for end in ends if end[0] <= arrival]:
                ends.remove(end)
                end[1].group.release(end[1], end[0])
            group = pool.groups.get(("hello", 1))
            instance = group.take() if group else None
            if instance is None:
                started += 1
                (fresh,) = ready(pool, f"i{started}", now=arrival)
                instance = take(fresh.group)
            ends.append((arrival + rng.expovariate(1 / service_s), instance))
            arrival += rng.expovariate(per_s)
        ends.sort(key=lambda end: end[0])
        while ends and ends[0][0] <= now:
            at, instance = ends.pop(0)
            instance.group.release(instance, at)
        alive.append((now, len(pool.instances)))
        for instance in pool.reclaim(now):
            reclaimed.append(now)
            pool.remove(instance)
    window_s = min(last_s, further_s)
    for since, instances in alive:
        assert sum(since <= at < since + window_s for at in reclaimed) <= instances
