"""Pauses between calls, as the owner of a function sees them."""

from collections import Counter
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from mayfly_proto import gaps, records
from mayfly_proto.records import FunctionLoad, RouterMembers
from mayfly_router.gaps import Gaps
from mayfly_router.loads import Loads, function_load
from mayfly_router.state import State
from tests.unit.router_parts import call, function_of, node, route, spec


def named(seconds: float) -> str:
    return gaps.key(gaps.bin_of(seconds))


steps = st.lists(st.tuples(st.floats(0.001, 5000), st.integers(-3, 3)), max_size=60)


@given(steps)
def test_each_level_has_its_own_pauses(moves: list[tuple[float, int]]) -> None:
    """However instances come into use and out of it, a pause of level k is the time since which fewer than k were."""
    recorded, now, level = Gaps(), 0.0, 0
    times: dict[int, list[tuple[float, int]]] = {}  # level → when it was reached (1) and left (-1)
    for elapsed, change in moves:
        now += elapsed
        for _ in range(abs(change)):
            if change > 0:
                level += 1
                recorded.rise(now)
                times.setdefault(level, []).append((now, 1))
            elif level:
                recorded.fall(now)
                times[level].append((now, -1))
                level -= 1
    idle, further = Counter[str](), Counter[str]()
    for k, edges in times.items():
        for (left, kind), (reached, _) in pairwise(edges):
            if kind < 0:
                (idle if k == 1 else further)[named(reached - left)] += 1
    assert recorded.report() == (idle, further)
    assert recorded.report() == ({}, {}), "told once"
    assert recorded.level == level


def test_a_new_owner_knows_no_pause() -> None:
    """The first call that it sees may have come after any pause, and one that runs already too."""
    function = function_of(9, spec(concurrency=2))
    pool = function.pools[1]
    share = pool.occupy(node(), 100)
    assert function.gaps.report() == ({}, {})
    pool.route(share.node, route("a", concurrency=2), 100)
    pool.release(share, 101)
    assert function.gaps.idle_since == 101
    assert pool.take(131.5) is share
    assert function.gaps.report() == ({named(30.5): 1}, {})


def test_a_pause_outlives_a_version() -> None:
    """A deploy between two calls changes nothing about the time between them."""
    function = function_of(9, spec(1))
    old = function.pools[1]
    old.route(node(), route("a"), 0)
    share = old.take(0)
    assert share is not None
    old.release(share, 1)
    function.apply({1: spec(1), 2: spec(2)}, 2, 30)
    new = function.pools[2]
    new.route(node("n2"), route("b"), 31)
    assert new.take(61) is not None
    assert function.gaps.report() == ({named(60): 1}, {})


def test_calls_in_one_instance_are_one_level() -> None:
    """With four calls at once in an instance, the fifth call is the first of level two."""
    function = function_of(9, spec(concurrency=4))
    pool = function.pools[1]
    pool.route(node(), route("a", "b", concurrency=4), 0)
    taken = [pool.take(0) for _ in range(4)]
    assert function.gaps.level == 1
    taken.append(pool.take(0))
    assert function.gaps.level == 2
    for share in taken:
        assert share is not None
        pool.release(share, 5)
    assert function.gaps.level == 0
    for _ in range(8):
        pool.take(105)
    assert function.gaps.report() == ({named(100): 1}, {named(100): 1})


def test_a_pause_ends_when_the_call_comes_and_not_when_it_has_its_slot() -> None:
    """Else what was reclaimed would make pauses longer by a cold start, and a timer's pauses would not be equal."""
    function = function_of(9)
    pool = function.pools[1]
    pool.route(node(), route("a"), 0)
    share = pool.take(0)
    assert share is not None
    pool.release(share, 0)
    pool.route(share.node, None, 10)
    pool.wait(call("1"), 60)
    assert function.gaps.idle_since is None
    pool.route(share.node, route("b"), 66)
    assert len(pool.match(66)) == 1
    assert function.gaps.report() == ({named(60): 1}, {})


def test_pauses_below_a_second_are_only_counted() -> None:
    """A function that is called all the time says so in one number."""
    function = function_of(9)
    pool = function.pools[1]
    pool.route(node(), route("a"), 0)
    for turn in range(100):
        share = pool.take(turn * 0.5)
        assert share is not None
        pool.release(share, turn * 0.5)
    assert function.gaps.report() == ({"0": 99}, {})


def test_a_load_says_how_long_calls_take_and_wait() -> None:
    """p50 and p99 are of the last 256 calls of all versions; the means are the current version's; the oldest waits."""
    function = function_of(9)
    pool = function.pools[1]
    assert function_load(function, 5) == FunctionLoad()
    for number in range(1, 1001):
        pool.durations.add(number / 1000)
    pool.served(0.25)
    pool.starts.order(["a"], 1)
    pool.route(node(), route("a"), 1.5)
    assert pool.take(2) is not None
    pool.wait(call("1", arrived=2.0), 2)
    load = function_load(function, 5)
    assert (load.p50_ms, load.p99_ms) == (873, 998)
    assert (load.service_ms, load.cold_ms, load.oldest_ms) == (250, 500, 3000)
    assert (load.queued, load.in_flight, load.ready) == (1, 1, 1)


def test_pauses_are_in_reports_to_the_scaler_and_not_in_those_to_people() -> None:
    """Who looks at a router by hand takes nothing away from what the scaler learns."""
    state = State("r1", 1000, lambda: 100.0)
    state.members = RouterMembers(epoch=1, members={})
    function = state.functions["f"] = function_of(9)
    function.gaps.rise(0)
    function.gaps.fall(1)
    function.gaps.rise(31)
    assert state.report().functions["f"].idle_gaps == {}
    state.wake(function)
    state.look_at(function, 100.0)
    assert records.decode(state.loads.current["f"], FunctionLoad).idle_gaps == {"30": 1}


def test_pauses_are_told_once() -> None:
    """What else there is to tell stands, and of what has nothing any more nothing is told; what is told last counts."""
    loads = Loads()

    def standing() -> dict[str, FunctionLoad]:
        return {name: records.decode(raw, FunctionLoad) for name, raw in loads.current.items()}

    busy, gone, back = FunctionLoad(ready=1, idle_gaps={"30": 1}), FunctionLoad(calls=3), FunctionLoad(calls=4, ready=1)
    loads.tell("busy", busy)
    loads.tell("gone", gone)
    loads.tell("back", gone)
    loads.tell("back", back)
    assert standing() == {"busy": busy, "gone": gone, "back": back}
    loads.told()
    assert standing() == {"busy": FunctionLoad(ready=1), "back": back}
