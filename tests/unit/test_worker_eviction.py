"""Who goes first when memory is short, promised or real."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from mayfly_proto.states import Instance as State
from mayfly_worker import eviction
from mayfly_worker.eviction import MOST_CALLS, Pressure
from mayfly_worker.group import Instance
from mayfly_worker.holds import Hold
from mayfly_worker.pool import FIRST_CALL_S, PRIVATE_MB, Pool
from tests.unit.worker_pool import ready, take, use


def test_what_is_dear_to_start_stays_longer_than_what_is_cheap() -> None:
    """Of two used alike, the one whose start took 1 s outlives the one that was forked in 5 ms, though idle longer."""
    pool = Pool(200, 8)
    (dear,) = ready(pool, "a1", function="a", now=1.0, cold_s=1.0)
    (cheap,) = ready(pool, "b1", function="b", now=1.0, cold_s=0.005)
    use(dear, 3, now=2.0)
    use(cheap, 3, now=3.0)
    assert pool.order("c", 1, 100, ["c1"], 10.0).evicted == [cheap]


def test_a_large_instance_goes_before_a_small_one() -> None:
    """What it gives back counts: one of 600 MB makes room that six of 100 MB would have to leave for."""
    pool = Pool(700, 8)
    (small,) = ready(pool, "a1", function="a", now=1.0, cold_s=0.1)
    (large,) = ready(pool, "b1", function="b", memory_mb=600, now=1.0, cold_s=0.1)
    use(small, 3, now=2.0)
    use(large, 3, now=3.0)
    assert pool.order("c", 1, 100, ["c1"], 10.0).evicted == [large]


def test_calls_beyond_the_cap_buy_nothing() -> None:
    """A million calls long ago do not keep an instance for ever."""
    pool = Pool(1000, 8)
    often, seldom = ready(pool, "i1", "i2", now=1.0, cold_s=0.1)
    often.calls, seldom.calls = 10**6, MOST_CALLS
    assert eviction.value(often) == eviction.value(seldom)


def test_the_surplus_of_a_burst_leaves_before_those_in_use() -> None:
    """Each instance counts its own calls: the thirty of one burst do not share the fame of the one that serves on."""
    pool = Pool(400, 8)
    used, *surplus = ready(pool, "a1", "a2", "a3", "a4", function="a", now=1.0, cold_s=0.1)
    for instance in surplus:
        instance.calls = 1
    used.calls = 40
    gone = pool.order("b", 1, 100, ["b1", "b2", "b3"], 10.0).evicted
    assert gone == surplus


@settings(deadline=None)
@given(
    members=st.lists(
        st.tuples(st.sampled_from("abc"), st.integers(0, 80), st.floats(0.0, 9.0), st.booleans()), max_size=15
    ),
    held=st.dictionaries(st.sampled_from("abc"), st.integers(0, 4)),
    wanted_mb=st.floats(1.0, 400.0),
)
def test_victims_are_the_least_valuable_that_may_go_and_no_more_than_needed(
    members: list[tuple[str, int, float, bool]], held: dict[str, int], wanted_mb: float
) -> None:
    """Never busy, never held, never before a first call could come; dropping the last one would not be enough."""
    pool = Pool(10**6, 10**6)
    now = 10.0
    everyone: list[Instance] = []
    for number, (function, calls, at, busy) in enumerate(sorted(members, key=lambda member: member[2])):
        (instance,) = ready(pool, f"i{number}", function=function, now=at, cold_s=0.1)
        instance.calls = calls
        if busy:
            assert take(instance.group) is instance
        everyone.append(instance)
    for function, count in held.items():
        pool.hold(function, 1, Hold(count), now)
    before = {key: len(group.in_service()) for key, group in pool.groups.items()}
    victims = pool.relieve(wanted_mb, now)
    for victim in victims:
        assert victim.finished
        assert victim.calls or now - victim.idle_since >= FIRST_CALL_S
    for key, group in pool.groups.items():
        assert len(group.in_service()) >= min(held.get(key[0], 0), before[key])
    assert not victims or (len(victims) - 1) * PRIVATE_MB < wanted_mb
    values = [eviction.value(victim) for victim in victims]
    assert values == sorted(values)
    assert pool.evicted == len(victims)
    if victims:
        spared = [i for i in everyone if i.state is State.IDLE and not held.get(i.group.function)]
        may_go = [i for i in spared if i.calls or now - i.idle_since >= FIRST_CALL_S]
        assert all(eviction.value(instance) >= values[-1] for instance in may_go)
    if len(victims) * PRIVATE_MB < wanted_mb:
        assert not list(pool._evictable(pool.groups.values(), now))


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 10**6), places=st.integers(2, 4), colds=st.lists(st.floats(0.2, 2.0), min_size=2, max_size=6)
)
def test_what_is_never_used_again_goes_in_the_end_however_dear(seed: int, places: int, colds: list[float]) -> None:
    """Each eviction raises what the next ones are measured by; nobody outlives that by former merits."""
    rng = random.Random(seed)
    pool = Pool(100 * places, 10**6)
    (relic,) = ready(pool, "relic", function="relic", now=1.0, cold_s=2.0)
    use(relic, MOST_CALLS, now=1.0)
    cheapest = min(colds)
    rounds = 0
    while relic.state is State.IDLE:
        rounds += 1
        name = f"f{rounds}"
        now = 10.0 + rounds
        before = pool._inflation.value
        admission = pool.order(name, 1, 100, [name], now)
        assert admission.accepted
        for victim in admission.evicted:
            pool.remove(victim)
        assert pool._inflation.value >= before
        instance = admission.starting[0]
        instance.ordered_at = now - rng.choice(colds)
        instance.group.ready(instance, now)
        use(instance, 1, now)
        assert rounds <= places * (MOST_CALLS * 2.0 / cheapest + 2)


@given(st.lists(st.floats(0.0, 1.2), max_size=40))
def test_pressure_begins_above_ninety_and_ends_at_eighty_five_percent(shares: list[float]) -> None:
    """Below 90 % nothing goes; once above, as much as brings it to 85 %, again and again until it is there."""
    pressure = Pressure()
    high = False
    for share in shares:
        excess_mb = pressure.excess_mb(share * 1000, 1000)
        high = share * 1000 > (850 if high else 900)
        assert (excess_mb > 0) == high
        if high:
            assert excess_mb == share * 1000 - 850


def test_real_pressure_counts_what_instances_were_measured_to_use() -> None:
    """Promises say nothing of what a machine has left: as many go as give back what is missing."""
    pool = Pool(10_000, 100)
    members = ready(pool, *(f"i{k}" for k in range(6)), memory_mb=1000)
    assert len(pool.relieve(1.0, 10.0)) == 1, "20 MB until one was measured"
    members[0].group.measured(50.0)
    assert len(pool.relieve(120.0, 10.0)) == 3
