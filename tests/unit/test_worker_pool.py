"""The pool: who takes the next call, who makes room, who is stopped."""

import pytest

from mayfly_proto.messages import Refusal
from mayfly_proto.states import IllegalMove
from mayfly_proto.states import Instance as State
from mayfly_worker.holds import Hold
from mayfly_worker.pool import FIRST_CALL_S, Pool
from tests.unit.worker_pool import ready, started, take


def test_most_recently_used_idle_instance_is_taken_so_that_the_rest_can_leave() -> None:
    """Among idle instances the one used last gets the next call."""
    pool = Pool(1000, 8)
    first, second, third = ready(pool, "i1", "i2", "i3")
    group = first.group
    assert [take(group), take(group), take(group)] == [third, second, first]
    group.release(second, 1.0)
    group.release(third, 2.0)
    assert take(group) is third
    assert take(group) is second
    assert group.take() is None


def test_calls_are_packed_into_the_fullest_instance_with_a_free_slot() -> None:
    """With concurrency above 1 an instance is filled before another is used."""
    pool = Pool(1000, 8)
    first, second = ready(pool, "i1", "i2", concurrency=2)
    group = first.group
    assert [take(group) for _ in range(4)] == [second, second, first, first]
    assert group.take() is None
    group.release(first, 1.0)
    group.release(second, 1.0)
    group.release(second, 1.0)
    assert take(group) is first


def test_starting_instance_is_not_offered() -> None:
    """A call never goes to an instance that is not ready."""
    pool = Pool(1000, 8)
    (instance,) = started(pool, "i1")
    assert instance.group.take() is None
    assert instance.group.in_service() == []


def test_repeated_order_starts_nothing_twice() -> None:
    """An order that comes again (its answer was lost) is accepted, and starts nothing."""
    pool = Pool(1000, 8)
    started(pool, "i1")
    again = pool.order("hello", 1, 100, ["i1", "i2"], 0.0)
    assert again.accepted == ["i1", "i2"]
    assert [instance.id for instance in again.starting] == ["i2"]


def test_memory_is_promised_before_a_start_is_accepted() -> None:
    """What does not fit is refused for its reason, what fits is accepted."""
    pool = Pool(250, 8)
    admission = pool.order("hello", 1, 100, ["i1", "i2", "i3"], 0.0)
    assert admission.accepted == ["i1", "i2"]
    assert admission.reason == Refusal.NO_ROOM
    assert pool.memory_used_mb == 200


def test_no_more_starts_at_once_than_the_node_allows() -> None:
    """Starts under way are limited; one that becomes ready makes place for the next."""
    pool = Pool(1000, 2)
    admission = pool.order("hello", 1, 10, ["i1", "i2", "i3"], 0.0)
    assert (admission.accepted, admission.reason) == (["i1", "i2"], Refusal.SLOTS)
    first = admission.starting[0]
    first.group.ready(first, 0.0)
    assert pool.order("hello", 1, 10, ["i3"], 0.0).accepted == ["i3"]


def test_idle_instances_of_others_make_room_longest_idle_first() -> None:
    """Only as many as needed go, and never one with a call."""
    pool = Pool(300, 8)
    old, new, busy = ready(pool, "a1", "a2", "a3", function="a", keep_alive_s=90)
    taken = take(busy.group)
    assert taken is busy
    for instance in (new, old):
        take(instance.group)
    old.group.release(old, 5.0)
    new.group.release(new, 6.0)
    admission = pool.order("b", 1, 100, ["b1"], 10.0)
    assert admission.evicted == [old]
    assert admission.accepted == ["b1"]
    assert old.finished
    assert pool.order("b", 1, 100, ["b2", "b3"], 10.0).reason == Refusal.NO_ROOM
    assert busy.state is State.BUSY


def test_nobody_is_evicted_when_it_would_not_be_enough() -> None:
    """Idle instances are not thrown away for a start that does not fit anyhow."""
    pool = Pool(300, 8)
    (idle,) = ready(pool, "a1", function="a")
    assert pool.order("b", 1, 400, ["b1"], 10.0).reason == Refusal.NO_ROOM
    assert idle.state is State.IDLE


def test_instance_waiting_for_its_first_call_is_not_evicted() -> None:
    """What has just been started for a call is still there when the call comes."""
    pool = Pool(100, 8)
    ready(pool, "a1", function="a", now=10.0)
    assert pool.order("b", 1, 100, ["b1"], 10.0 + FIRST_CALL_S / 2).reason == Refusal.NO_ROOM
    assert pool.order("b", 1, 100, ["b1"], 10.0 + FIRST_CALL_S).accepted == ["b1"]


def test_hold_is_not_evicted_either() -> None:
    """Another function cannot take what is held."""
    pool = Pool(200, 8)
    ready(pool, "a1", "a2", function="a")
    pool.hold("a", 1, Hold(2), 0.0)
    assert pool.order("b", 1, 100, ["b1"], 10.0).reason == Refusal.NO_ROOM


def test_shrink_takes_idle_ones_first_and_lets_busy_ones_finish() -> None:
    """A drained busy instance takes no further call and is finished after its last."""
    pool = Pool(1000, 8)
    idle, busy = ready(pool, "i1", "i2")
    assert take(busy.group) is busy
    assert pool.shrink("hello", 1, 1) == [idle]
    assert idle.finished
    assert pool.shrink("hello", 1, -1) == [busy]
    assert not busy.finished
    assert busy.group.take() is None
    busy.group.release(busy, 1.0)
    assert busy.finished
    assert busy.group.take() is None


def test_shrink_of_everything_includes_what_is_still_starting() -> None:
    """A retired version leaves nothing behind that becomes ready later."""
    pool = Pool(1000, 8)
    (starting,) = started(pool, "i1")
    assert pool.shrink("hello", 1, -1) == [starting]
    assert pool.memory_used_mb == 0
    assert pool.shrink("hello", 1, -1) == []
    assert pool.shrink("unknown", 1, -1) == []


def test_instance_ends_stopped_or_failed_as_it_went() -> None:
    """STOPPED when it was told to and had no call; FAILED otherwise."""
    pool = Pool(1000, 8)
    told, crashed, idle = ready(pool, "i1", "i2", "i3")
    pool.shrink("hello", 1, 1)
    assert take(idle.group) is idle
    pool.remove(told)
    pool.remove(crashed)
    pool.remove(idle)
    assert [told.state, crashed.state, idle.state] == [State.STOPPED, State.FAILED, State.FAILED]
    assert pool.groups == {}
    assert pool.instances == {}


def test_failed_instance_gets_no_call_while_its_process_still_dies() -> None:
    """Killed for time: out of service at once, its other calls are still counted out."""
    pool = Pool(1000, 8)
    (instance,) = ready(pool, "i1", concurrency=3)
    group = instance.group
    take(group)
    take(group)
    group.fail(instance)
    assert group.take() is None
    assert group.in_service() == []
    group.release(instance, 1.0)
    group.release(instance, 1.0)
    assert group.take() is None
    with pytest.raises(IllegalMove):
        group.drain(instance)
    pool.remove(instance)
