"""Instances that are started before their next call comes."""

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mayfly_proto.records import FunctionTarget
from mayfly_router.function import Function
from mayfly_router.gaps import Gaps
from mayfly_router.prewarm import Changes, PreWarm
from tests.unit.router_parts import function_of, spec

TICK_S = 0.5
NOTHING = Changes([], [], [])


def waiting(begin_s: float = 100, for_s: float = 10, **fields: Any) -> Function:
    function = function_of(9, spec(**fields))
    function.target = FunctionTarget(keep_alive_s=5, pre_warm_at_s=begin_s, pre_warm_for_s=for_s)
    return function


def called(function: Function, at: float, until: float | None = None) -> None:
    function.gaps.rise(at)
    function.gaps.fall(at if until is None else until)


def test_a_function_is_warm_in_its_window_and_only_then() -> None:
    """From so long after it fell idle, for so long; then it is over, once."""
    prewarm, function = PreWarm(), waiting()
    called(function, 1000)
    prewarm.follow(function, 1000)
    assert prewarm.look(1099.9) == NOTHING
    assert function.minimum == 0
    assert prewarm.look(1100) == Changes([function], [], [])
    assert function.minimum == 1
    assert prewarm.look(1109.9) == NOTHING
    assert prewarm.look(1110) == Changes([], [], [function])
    assert function.minimum == 0
    for now in range(1111, 5000, 7):
        assert prewarm.look(now) == NOTHING


def test_a_call_in_the_window_ends_it() -> None:
    """The next window is that of the next pause."""
    prewarm, function = PreWarm(), waiting()
    called(function, 1000)
    prewarm.follow(function, 1000)
    prewarm.look(1100)
    function.gaps.rise(1103)
    assert prewarm.look(1103) == Changes([], [function], [])
    function.gaps.fall(1150)
    assert prewarm.look(1249.9) == NOTHING
    assert prewarm.look(1250) == Changes([function], [], [])


def test_who_is_not_known_to_be_idle_is_not_waited_for() -> None:
    """A new owner does not know when the last call was, so it starts nothing ahead of the next one."""
    prewarm, function = PreWarm(), waiting()
    prewarm.follow(function, 0)
    for now in range(0, 1000, 5):
        assert prewarm.look(now) == NOTHING


def test_another_target_counts_from_the_same_moment() -> None:
    """A window that is set while the function is idle begins when it would have; one that is past does not."""
    prewarm, function = PreWarm(), waiting()
    called(function, 1000)
    prewarm.follow(function, 1000)
    function.target = FunctionTarget(keep_alive_s=5, pre_warm_at_s=50, pre_warm_for_s=10)
    prewarm.follow(function, 1055)
    assert prewarm.look(1055) == Changes([function], [], [])
    function.target = FunctionTarget(keep_alive_s=5, pre_warm_at_s=20, pre_warm_for_s=10)
    prewarm.follow(function, 1056)
    assert prewarm.look(1056) == Changes([], [], [function])
    function.target = FunctionTarget()
    prewarm.follow(function, 1057)
    assert prewarm.look(5000) == NOTHING
    assert len(prewarm) == 0


def test_a_function_that_is_another_router_s_is_no_longer_watched() -> None:
    """Given away in its window, it is not ordered from here."""
    prewarm, function = PreWarm(), waiting()
    called(function, 1000)
    prewarm.follow(function, 1000)
    function.leave()
    assert prewarm.look(1100) == NOTHING
    assert len(prewarm) == 0


pauses = st.lists(st.tuples(st.floats(0.1, 400), st.floats(0.0, 30)), min_size=1, max_size=20)


@pytest.mark.invariant("S14")
@given(pauses, st.floats(10, 200), st.floats(1, 50))
@example([(1.0000000000000018, 0.0)], 15.0, 1.0)  # 15 s later is 16 when it is added, and not yet 15 s when subtracted
def test_each_pause_has_one_window_at_its_place(calls: list[tuple[float, float]], begin_s: float, for_s: float) -> None:
    """Whenever calls come and however long they take: at each moment the function is warm exactly if it has been idle
    for so long, with the coarseness of a tick, and after its last call it comes to rest for good."""
    prewarm, function = PreWarm(), waiting(begin_s, for_s)
    prewarm.follow(function, 0)
    edges = []
    at = 0.0
    for pause, duration in calls:
        at += pause
        edges.append((at, function.gaps.rise))
        at += duration
        edges.append((at, function.gaps.fall))
    end = at + begin_s + for_s + 2000
    now, windows = 0.0, 0
    while now < end:
        now += TICK_S
        while edges and edges[0][0] <= now:
            moment, happen = edges.pop(0)
            happen(moment)
        changes = prewarm.look(now)
        windows += len(changes.begun)
        idle_since = function.gaps.idle_since
        due = idle_since is not None and idle_since + begin_s <= now < idle_since + (begin_s + for_s)
        assert function.warm is due
    assert not function.warm
    assert windows <= len(calls)


class Counting(Gaps):
    """Counts how often somebody asks."""

    asked = 0

    @property
    def idle_since(self) -> float | None:
        self.asked += 1
        return super().idle_since


def test_a_function_costs_one_look_in_the_length_of_its_pause() -> None:
    """Nobody is polled: a function that is called all the time is looked at as seldom as one that sleeps."""
    prewarm, function = PreWarm(), waiting(60, 10)
    function.gaps = counting = Counting()
    prewarm.follow(function, 0)
    now = 0.0
    while now < 3600:
        now += TICK_S
        called(function, now)
        prewarm.look(now)
    assert 0 < counting.asked <= 3600 / 60 + 1
