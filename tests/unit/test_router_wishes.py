"""What a function is to have besides what its calls ask for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mayfly_proto.errors import CallError, ErrorType
from mayfly_proto.messages import Refusal
from mayfly_proto.records import FunctionTarget
from mayfly_router import wishes
from mayfly_router.activation import FAILURES_BEFORE_BACKOFF, backoff_s
from mayfly_router.function import Function
from tests.unit.router_parts import call, function_of, node, route, spec

BOOM = CallError(ErrorType.INIT_FAILED, "boom", component="worker")
LEARNT = FunctionTarget(keep_alive_s=12.5, further_keep_alive_s=3, pre_warm_at_s=100, pre_warm_for_s=20)
small = st.integers(0, 6)


@st.composite
def functions(draw: st.DrawFn) -> Function:
    """In any state: two nodes, one of which may drain, instances in use and idle, starting, and calls that wait."""
    limit = draw(small)
    function = function_of(0, spec(max_instances=limit, min_instances=min(limit, draw(small))))
    function.target = FunctionTarget(minimum=draw(small))
    function.warm = draw(st.booleans())
    pool = function.pools[1]
    for name in ("n1", "n2"):
        where = node(name)
        pool.route(where, route(*(f"{name}i{k}" for k in range(draw(small)))), 0)
        where.draining = draw(st.booleans())
    for _ in range(draw(small)):
        pool.take(0)
    pool.starts.order([f"s{k}" for k in range(draw(small))], 0)
    pool.starts.placed("s0", "n1", 0)
    pool.starts.on_draining("n1", pool.shares["n1"].node.draining if "n1" in pool.shares else False)
    for number in range(draw(small)):
        pool.wait(call(str(number)), 0)
    return function


@pytest.mark.invariant("P1", "P2", "P11")
@given(functions())
def test_orders_keep_the_limit_and_stops_keep_the_minimum(function: Function) -> None:
    """Whatever is asked for, no more instances are ordered than the limit allows, asking again orders nothing, and no
    idle instance is stopped that the minimum needs, unless there are more than the limit."""
    pool = function.pools[1]
    limit = pool.spec.max_instances
    before, held = len(pool.starts), pool.held
    room = limit - held - before
    plan = function.plan(0)
    ordered = sum(number for _, number in plan.orders)
    assert 0 <= ordered <= max(0, room)
    assert held + before + ordered <= max(limit, held + before)
    stopped = sum(stop.number for stop in plan.stops)
    assert stopped <= held - pool.busy, "nothing in use"
    assert held - stopped >= function.minimum or not stopped
    assert function.minimum <= limit
    pool.starts.order([f"o{k}" for k in range(ordered)], 0)
    assert function.plan(0).orders == []


@given(functions())
def test_what_is_below_the_minimum_is_ordered_on_nodes_that_stay(function: Function) -> None:
    """What a node that drains has counts for nothing; the limit counts it."""
    pool = function.pools[1]
    staying = pool.staying + pool.starts.staying
    room = pool.spec.max_instances - pool.held - len(pool.starts)
    ordered = sum(number for _, number in function.plan(0).orders)
    assert ordered >= min(function.minimum - staying, room)


def test_the_greatest_wish_counts_up_to_the_limit() -> None:
    """Of the version's minimum, the scaler's, and one for a window: the greatest, never more than the limit."""
    of = spec(min_instances=2, max_instances=4)
    assert wishes.minimum(of, FunctionTarget(), False) == 2
    assert wishes.minimum(of, FunctionTarget(minimum=3), True) == 3
    assert wishes.minimum(of, FunctionTarget(minimum=30), False) == 4
    assert wishes.minimum(spec(), FunctionTarget(), True) == 1
    assert wishes.minimum(spec(), FunctionTarget(minimum=-1), False) == 0


def test_what_was_learnt_is_for_functions_that_leave_it_to_the_scaler() -> None:
    """With a keep-alive of its own a version has that, and no window."""
    assert wishes.keep_alive(spec(), LEARNT) == (12500, 3000)
    assert wishes.window(spec(), LEARNT) == (100, 120)
    assert wishes.keep_alive(spec(keep_alive_s=90.0), LEARNT) == (-1, -1)
    assert wishes.window(spec(keep_alive_s=90.0), LEARNT) is None
    assert wishes.window(spec(pre_warm=False), LEARNT) is None
    assert wishes.keep_alive(spec(), FunctionTarget()) == (-1, -1)
    assert wishes.keep_alive(spec(), FunctionTarget(keep_alive_s=0, further_keep_alive_s=-5)) == (0, 0)


def test_no_window_within_the_keep_alive() -> None:
    """What is still there need not be started; without a learnt keep-alive that is the version's."""
    assert wishes.window(spec(), FunctionTarget(keep_alive_s=120, pre_warm_at_s=100, pre_warm_for_s=20)) is None
    assert wishes.window(spec(), FunctionTarget(pre_warm_at_s=60, pre_warm_for_s=20)) is None
    assert wishes.window(spec(), FunctionTarget(pre_warm_at_s=60, pre_warm_for_s=40)) == (60, 100)


def test_blocked_is_what_found_no_place_and_is_still_wanted() -> None:
    """Told until it is placed, or until nobody wants it; slots that are free again in milliseconds do not count."""
    function = function_of(9)
    pool = function.pools[1]
    pool.wait(call("1"), 0)
    pool.starts.order(["a", "b"], 0)
    function.not_placed(pool, ["a", "b"], Refusal.NO_ROOM, 0.1)
    assert function.blocked == 2
    function.not_placed(pool, ["c"], Refusal.SLOTS, 0.2)
    assert function.blocked == 0
    function.not_placed(pool, ["d"], Refusal.LABELS, 0.3)
    assert function.blocked == 1
    pool.empty()
    assert function.blocked == 0
    function.target = FunctionTarget(minimum=1)
    assert function.blocked == 1
    pool.starts.order(["e"], 1)
    pool.starts.placed("e", "n1", 1)
    assert function.blocked == 0


@pytest.mark.invariant("S10")
def test_starts_that_fail_are_tried_one_at_a_time_and_ever_more_seldom() -> None:
    """Under a constant stream of calls and a minimum of three: after five failures there is at most one start under
    way, and the next comes no sooner than the back-off says."""
    function = function_of(0, spec(min_instances=3))
    pool = function.pools[1]
    tried: list[float] = []
    now, number = 0.0, 0
    while now < 100:
        now += 0.025
        pool.expire(now)
        if not pool.hopeless(now):
            pool.wait(call(f"{now}", arrived=now, deadline=now + 5), now)
        for _, count in function.plan(now).orders:
            ids = [f"i{number + k}" for k in range(count)]
            number += count
            pool.starts.order(ids, now)
            if pool.starts.failures >= FAILURES_BEFORE_BACKOFF:
                assert len(pool.starts) == 1
                assert not tried or now >= tried[-1] + backoff_s(pool.starts.failures, 0.0)
            for id_ in ids:
                pool.start_failed(id_, BOOM, now, 0.0)
            tried.append(now)
    assert pool.starts.failures >= 10, "it goes on trying"
    assert len(tried) < 20
