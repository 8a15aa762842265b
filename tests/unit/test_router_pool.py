"""Slots and queue of one version, decided without a loop, a clock or a connection."""

from typing import Any, cast

import pytest

from mayfly_proto.errors import CallError, ErrorType
from mayfly_proto.messages import Refusal
from mayfly_router.backlog import Backlog
from mayfly_router.call import Call
from mayfly_router.durable.delivery import Delivery
from mayfly_router.nodes import Node
from mayfly_router.pool import Pool
from mayfly_router.starts import DOUBT_LIMIT_S, START_LIMIT_S
from tests.unit.router_parts import call, function_of, node, route, spec

BOOM = CallError(ErrorType.INIT_FAILED, "boom", component="worker")


@pytest.fixture
def pool() -> Pool:
    return Pool(spec(max_queue=3), Backlog(100))


def test_the_last_used_node_is_used_first(pool: Pool) -> None:
    """Load stays on few nodes, so that the instances of the others become idle and go."""
    first, second = node("n1"), node("n2")
    pool.route(first, route("a", "b"), 0)
    pool.route(second, route("c", "d"), 0)
    used = [pool.take(0) for _ in range(2)]
    assert used[0] is used[1] is pool.shares["n2"]
    assert pool.take(0) is pool.shares["n1"]


def test_a_freed_slot_goes_to_who_waits_longest(pool: Pool) -> None:
    """First come, first served, and the slot does not become free in between."""
    pool.route(node(), route("a"), 0)
    share = pool.take(0)
    assert share is not None
    assert pool.take(0) is None
    pool.wait(call("1"), 0)
    pool.wait(call("2"), 0)
    following = pool.release(share, 0)
    assert following is not None
    assert following.invocation == "1"
    assert repr(pool) == "<Pool f@1: 1 queued, 1/1 busy, 1 ready, 0 starting>"


def test_capacity_that_shrank_is_not_given_away(pool: Pool) -> None:
    """An instance left the Route Cache with a call in it: its end frees nothing."""
    where = node()
    pool.route(where, route("a", "b"), 0)
    shares = [pool.take(0), pool.take(0)]
    pool.wait(call("1"), 0)
    pool.route(where, route("a"), 0)
    assert shares[0] is not None
    assert pool.release(shares[0], 0) is None
    assert len(pool.queue) == 1
    assert pool.release(shares[0], 0) is not None


def test_only_a_usable_node_of_the_same_epoch_is_capacity(pool: Pool) -> None:
    """A route counts when the node's lease has its epoch, the node has accepted us, and it does not drain."""
    where = node(epoch=2)
    pool.route(where, route("old", epoch=1), 0)
    assert (pool.take(0), pool.held) == (None, 0)
    pool.route(where, route("new", epoch=2), 0)
    where.set_adopted(False)
    pool.refresh(pool.shares["n1"], 0)
    assert pool.take(0) is None
    assert pool.held == 1, "it exists, and counts for the limit"
    where.set_adopted(True)
    pool.refresh(pool.shares["n1"], 0)
    assert pool.take(0) is not None


def test_a_share_that_refused_is_shut_until_the_next_word(pool: Pool) -> None:
    """After `busy` nothing is sent there, else the same call would go to and fro; a new route opens it."""
    where = node()
    pool.route(where, route("a"), 0)
    share = pool.take(0)
    assert share is not None
    pool.close(share)
    pool.vacate(share, 0)
    assert pool.take(0) is None
    pool.route(where, route("b"), 0)
    assert pool.take(0) is not None


def test_the_queue_is_bounded_in_calls_and_in_bytes(pool: Pool) -> None:
    """The fourth call of three, and the byte beyond the limit, are refused; what leaves makes room again."""
    assert pool.wait(call("big", payload=b"x" * 90), 0)
    assert not pool.wait(call("bytes", payload=b"x" * 11), 0)
    assert pool.wait(call("2"), 0) and pool.wait(call("3"), 0)
    assert not pool.wait(call("4"), 0)
    assert [late.invocation for late in pool.expire(10.0)] == ["big", "2", "3"]
    assert pool.wait(call("bytes", payload=b"x" * 100), 0)


def test_calls_that_come_back_are_first_again_in_their_order(pool: Pool) -> None:
    """What a node refused or lost goes ahead of what came later, even when the queue is full."""
    for name, arrived in (("3", 3.0), ("4", 4.0), ("5", 5.0)):
        pool.wait(call(name, arrived=arrived), arrived)
    pool.put_back([call("2", arrived=2.0), call("1", arrived=1.0)], 6)
    assert [waiting.invocation for waiting in pool.queue] == ["1", "2", "3", "4", "5"]


def test_deadlines_are_kept_whatever_the_order_of_arrival(pool: Pool) -> None:
    """A call with an early deadline behind one with a late deadline is answered in time."""
    pool.wait(call("patient", deadline=30), 0)
    pool.wait(call("hasty", deadline=1), 0)
    assert pool.expire(0.9) == []
    assert [late.invocation for late in pool.expire(1.0)] == ["hasty"]
    assert [late.invocation for late in pool.expire(30)] == ["patient"]


def test_an_instance_that_is_ready_is_no_longer_starting(pool: Pool) -> None:
    """Its id in the Route Cache takes it out of what is coming, and the time it took is learnt."""
    pool.starts.order(["a", "b"], 1.0)
    pool.route(node(), route("a"), 1.5)
    assert len(pool.starts) == 1
    assert pool.starts.cold_s == 0.5


def test_a_start_that_says_nothing_does_not_count_for_ever(pool: Pool) -> None:
    """Accepted ones are given up after a minute; ones that perhaps nobody accepted cover nothing, and go sooner."""
    pool.starts.order(["a", "b"], 0)
    pool.starts.placed("a", "n1", 0)
    pool.starts.doubted(["b"], 0)
    assert (len(pool.starts), pool.starts.covering) == (2, 1)
    pool.starts.forget_late(DOUBT_LIMIT_S)
    assert "b" not in pool.starts
    pool.starts.forget_late(START_LIMIT_S)
    assert "a" not in pool.starts


def test_a_failed_start_ends_the_wait_only_when_nothing_else_comes(pool: Pool) -> None:
    """One of two starts fails: the call waits for the other; when that fails too it is answered."""
    pool.wait(call("1"), 0)
    pool.starts.order(["a", "b"], 0)
    assert pool.start_failed("a", BOOM, 1, 0.5) == []
    assert [failed.invocation for failed in pool.start_failed("b", BOOM, 1, 0.5)] == ["1"]
    assert pool.start_failed("b", BOOM, 1, 0.5) == [], "once"


def test_no_room_ends_the_wait_only_when_nothing_exists() -> None:
    """A refused start is no reason to give up while any instance of the function exists, of whatever version, nor in
    the first second: room comes back as calls of others end."""
    function = function_of(9, spec(1), spec(2))
    old, pool = function.pools[1], function.pools[2]
    where = node()
    old.route(where, route("a"), 0)
    pool.wait(call("1"), 0)
    pool.starts.order(["b"], 0)
    assert function.not_placed(pool, ["b"], Refusal.NO_ROOM, 3) == []
    assert pool.starts.retry_at > 3
    old.route(where, None, 3)
    assert function.not_placed(pool, [], Refusal.NO_ROOM, 0.9) == []
    assert function.not_placed(pool, [], Refusal.SLOTS, 3) == []
    assert function.not_placed(pool, [], Refusal.NO_NODES, 3) == []
    assert [hopeless.invocation for hopeless in function.not_placed(pool, [], Refusal.NO_ROOM, 1.1)] == ["1"]


def test_slots_of_concurrent_instances_are_filled_on_one_node(pool: Pool) -> None:
    """With concurrency 2 three calls occupy two instances, and two that left the route still count as one."""
    many = Pool(spec(concurrency=2), Backlog(100))
    where = node()
    many.route(where, route("a", "b", concurrency=2), 0)
    shares = [many.take(0) for _ in range(3)]
    share = shares[0]
    assert share is not None
    assert (share.busy, share.occupied, share.idle, many.held) == (3, 2, 0, 2)
    many.route(where, None, 0)
    assert many.held == 2, "three calls are in at least two instances"
    for _ in range(3):
        many.release(share, 0)
    assert many.held == 0
    assert many.shares == {}


def test_all_versions_share_one_limit() -> None:
    """An idle instance of version 1 is stopped when version 2 needs its place, and is used no more."""
    function = function_of(1, spec(1, max_instances=1), spec(2, max_instances=1))
    old, new = function.pools[1], function.pools[2]
    old.route(node(), route("a"), 0)
    new.wait(call("1"), 0)
    plan = function.plan(0)
    assert plan.orders == []
    assert [(stop.pool, stop.node, stop.number) for stop in plan.stops] == [(old, "n1", 1)]
    assert old.take(0) is None
    assert function.plan(0).stops == [], "said once"
    old.route(node(), None, 1)
    old.shares.clear()
    assert function.plan(1).orders == [(new, 1)]


def test_a_lower_limit_stops_what_is_idle_beyond_it() -> None:
    """Three idle instances and a new limit of one: two of them go."""
    function = function_of(1)
    pool = function.pools[1]
    pool.route(node(), route("a", "b", "c"), 0)
    assert [stop.number for stop in function.plan(0).stops] == [2]


def test_a_switch_moves_who_asked_for_no_version() -> None:
    """Waiting calls follow the current version; a pinned one stays, and keeps its version's instances."""
    function = function_of(9, spec(1))
    first = function.pools[1]
    for name, pinned in (("a", 0), ("pinned", 1), ("b", 0)):
        first.wait(call(name, pinned=pinned), 0)
    change = function.apply({1: spec(1), 2: spec(2)}, 2, 1)
    assert [waiting.invocation for waiting in function.pools[2].queue] == ["a", "b"]
    assert [waiting.invocation for waiting in first.queue] == ["pinned"]
    assert change.stops == []
    gone = function.apply({2: spec(2)}, 2, 2)
    assert [orphan.invocation for _, orphan in gone.orphans] == ["pinned"]


def test_the_minimum_is_ordered_without_any_call() -> None:
    """min_instances counts what is ready and what is coming; while starts fail it probes with one."""
    function = function_of(0, spec(min_instances=3))
    pool = function.pools[1]
    pool.route(node(), route("a"), 0)
    assert function.plan(0).orders == [(pool, 2)]
    pool.starts.order(["b", "c"], 0)
    assert function.plan(0).orders == []
    pool.start_failed("b", BOOM, 1, 0.5)
    pool.start_failed("c", BOOM, 1, 0.5)
    assert function.plan(1).orders == [(pool, 1)]


def test_a_function_that_left_takes_no_call() -> None:
    """After it was given away its slots are gone, and a call in flight that ends there changes nothing."""
    function = function_of(9)
    pool = function.pools[1]
    pool.route(node(), route("a"), 0)
    share = pool.take(0)
    assert share is not None
    pool.wait(call("1"), 0)
    assert [waiting.invocation for waiting in function.leave()] == ["1"]
    assert pool.release(share, 0) is None
    assert pool.take(0) is None
    assert function.left


# places behind the slots


def durable(name: str) -> Call:
    made = call(name)
    made.deliveries = (cast(Delivery, object()),)
    return made


def short(service_s: float = 0.001, slots: int = 1, **fields: Any) -> tuple[Pool, Node]:
    """A pool whose calls take so long, with its slots in use."""
    pool, worker = Pool(spec(**fields), Backlog(1000)), node()
    pool.route(worker, route(*(f"i{number}" for number in range(slots))), 0)
    pool.served(service_s)
    for _ in range(slots):
        assert pool.take(0) is not None
    return pool, worker


@pytest.mark.parametrize(("service_s", "places"), [(0.001, 8), (0.00001, 16), (0.009, 0), (1.0, 0)])
def test_short_calls_lie_ready_behind_the_slots(service_s: float, places: int) -> None:
    """As many as are a few milliseconds of work; calls that take their time wait for a slot that is really free."""
    pool, _ = short(service_s)
    taken = 0
    while pool.take_ahead(1.0) is not None:
        taken += 1
    assert taken == places


def test_a_slot_that_frees_is_taken_by_the_call_behind_it() -> None:
    """It is not free: no sync call is sent to where another goes first, and the count comes out even."""
    pool, _ = short()
    share = pool.take_ahead(1.0)
    assert share is not None
    assert pool.release(share, 0) is None
    assert (share.busy, share.ahead) == (1, 0)
    assert pool.take(0) is None
    assert pool.release(share, 0) is None
    assert (share.busy, share.ahead) == (0, 0)
    assert pool.take(0) is share


def test_nothing_more_is_sent_ahead_of_one_who_waits_for_an_answer() -> None:
    """A sync call waits for the few that lie there already, not for a stream of them."""
    pool, _ = short()
    share = pool.take_ahead(1.0)
    assert share is not None
    pool.wait(durable("later"), 0)
    pool.wait(call("sync"), 0)
    assert pool.release(share, 0) is None
    following = pool.release(share, 0)
    assert following is not None and following.invocation == "sync"


def test_a_refused_call_gives_its_place_back() -> None:
    """What a node did not take counts nowhere any more."""
    pool, _ = short()
    share = pool.take_ahead(1.0)
    assert share is not None
    pool.vacate(share, 0)
    pool.vacate(share, 0)
    assert (share.busy, share.ahead, pool.busy) == (0, 0, 0)


def test_the_time_of_a_call_that_lay_ready_begins_when_the_one_before_it_is_done() -> None:
    """Else waiting would count as working, and a short function would pass for a long one."""
    pool, _ = short(slots=2)
    share = pool.take_ahead(5.0)
    assert share is not None
    pool.service_s = None
    pool.served_ahead(share, 4, 5.010)
    assert pool.service_s == pytest.approx(0.005)
