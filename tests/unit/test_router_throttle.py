"""When a call that finds no free slot is refused at once, and what it is told."""

from math import ceil
from typing import Any, cast

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mayfly_proto import errors
from mayfly_proto.errors import CallError, ErrorType
from mayfly_proto.records import Shares
from mayfly_router.call import Call
from mayfly_router.durable.delivery import Delivery
from mayfly_router.function import Function
from mayfly_router.throttle import LONGEST_RETRY_S, predicted_wait_s, retry_after_s
from tests.unit.router_rig import Rig, spec

WAIT_S = 10.0  # of the rig's router


def busy_function(rig: Rig, service_s: float | None, **fields: Any) -> Function:
    """A function without a free slot, whose calls take so long."""
    function = Function("f", rig.state.backlog, rig.state.allotments)
    function.apply({1: spec(triggers=[], **fields)}, 1, rig.now)
    rig.state.functions["f"] = function
    assert function.current is not None
    function.current.service_s = service_s
    return function


def wait(rig: Rig, function: Function, number: int) -> None:
    """So many calls are in the queue, however they came there."""
    assert function.current is not None
    calls = [Call(f"q{n}", "_INBOX.q.1", None, b"", rig.now) for n in range(number)]
    function.current.put_back(calls, rig.now)


def offer(rig: Rig, function: Function, reply: bytes = b"_INBOX.caller.1") -> CallError | None:
    """What a call is answered at once; None: it waits."""
    before = len(rig.wire.sent)
    rig.dispatch.on_call(function, 0, b"fn.f", reply, None, b"")
    answers = rig.wire.sent[before:]
    return errors.from_reply(answers[0][1], answers[0][2]) if answers else None


@pytest.mark.invariant("P31")
@given(
    queued=st.integers(0, 300),
    max_queue=st.integers(0, 300),
    service_s=st.none() | st.floats(0.001, 30),
    concurrency=st.integers(1, 5),
    max_instances=st.integers(1, 50),
    share=st.none() | st.integers(0, 60),
    busy_part=st.floats(0, 1),
)
def test_refused_if_and_only_if_the_queue_is_full_or_the_wait_too_long(
    queued: int,
    max_queue: int,
    service_s: float | None,
    concurrency: int,
    max_instances: int,
    share: int | None,
    busy_part: float,
) -> None:
    """429 iff max_queue calls wait, or those before it that find no slot free take longer than wait_s in the slots that
    the function may get: its limit, or its share while there are shares. Retry-After is that time, in whole seconds
    from 1 to 60."""
    rig = Rig()
    if share is not None:
        rig.state.allotments.hear(Shares(epoch=1, shares={"f": share}), rig.now)
    function = busy_function(rig, service_s, max_queue=max_queue, concurrency=concurrency, max_instances=max_instances)
    wait(rig, function, queued)
    instances = max_instances if share is None else min(max_instances, max(1, share))
    slots = instances * concurrency
    assert function.current is not None
    busy = function.current.busy = int(busy_part * slots)
    predicted_s = max(0, queued - (slots - busy)) * (service_s or 0.0) / slots
    assume(abs(predicted_s - WAIT_S) > 1e-6)
    error = offer(rig, function)
    assert (error is not None) == (queued >= max_queue or predicted_s > WAIT_S)
    assert function.throttled == (error is not None)
    if error is not None:
        assert error.kind is ErrorType.THROTTLED
        assert error.retry_after_s == min(60, max(1, ceil(predicted_s)))


def test_slots_that_it_has_count_even_above_its_share() -> None:
    """A function that is coming down to its share is not taken for smaller than it is."""
    rig = Rig()
    function = busy_function(rig, 1.0, max_instances=100)
    wait(rig, function, 30)
    rig.state.allotments.hear(Shares(epoch=1, shares={"f": 2}), rig.now)
    assert function.current is not None
    function.current.busy = 10
    assert offer(rig, function) is None
    function.current.busy = 2
    error = offer(rig, function)
    assert error is not None and error.retry_after_s == 16  # 31 calls by now, in two slots


def test_nobody_is_refused_while_nothing_is_known_of_its_calls() -> None:
    """Before a first call has ended there is nothing to predict by: 5,000 calls at once wait."""
    rig = Rig()
    function = busy_function(rig, None, max_instances=4)
    assert all(offer(rig, function) is None for _ in range(5000))


def test_a_function_that_may_grow_is_taken_for_grown() -> None:
    """1,000 calls of 0.5 s would wait eight minutes for the one instance there is, and 5 s for the 100 it may have."""
    rig = Rig()
    function = busy_function(rig, 0.5, max_instances=100)
    wait(rig, function, 1000)
    assert offer(rig, function) is None


def test_those_who_are_to_have_an_instance_each_are_not_in_each_others_way() -> None:
    """500 calls of 13 s at once, none of 500 possible instances there yet: all of them start when theirs is ready."""
    rig = Rig()
    function = busy_function(rig, 13.0, max_instances=500)
    assert all(offer(rig, function) is None for _ in range(500))


def test_what_nobody_waits_for_is_not_refused_for_its_wait() -> None:
    """A call without a reply, and a durable one, are not in a hurry."""
    rig = Rig()
    function = busy_function(rig, 5.0, max_instances=1)
    wait(rig, function, 100)
    assert offer(rig, function) is not None
    assert offer(rig, function, reply=b"") is None
    durable = Call("d", "mayfly.settle.f.x", None, b"", rig.now)
    durable.deliveries = (cast(Delivery, object()),)
    assert function.current is not None
    rig.dispatch.enter(function, function.current, durable, rig.now)
    assert durable in list(function.current.queue)
    assert function.throttled == 1


def test_bytes_that_wait_are_limited_too() -> None:
    """A call whose payload has no place is refused, and counted."""
    rig = Rig()
    rig.state.backlog.limit = 10
    function = busy_function(rig, None)
    rig.dispatch.on_call(function, 0, b"fn.f", b"_INBOX.caller.1", None, b"eight by")
    assert not rig.wire.sent
    rig.dispatch.on_call(function, 0, b"fn.f", b"_INBOX.caller.1", None, b"eight by")
    assert function.throttled == 1


@given(st.integers(0, 10**6), st.floats(1e-4, 1e4), st.integers(0, 1000), st.integers(0, 1000))
def test_a_longer_queue_and_fewer_slots_mean_a_longer_wait(
    queued: int, service_s: float, slots: int, busy: int
) -> None:
    """The prediction is monotone, and what a caller is told is in bounds and no less than it."""
    busy = min(busy, slots)
    wait_s = predicted_wait_s(queued, service_s, slots, busy)
    assert predicted_wait_s(queued + slots + 1, service_s, slots, busy) > wait_s
    assert predicted_wait_s(queued, service_s, slots + 1, busy) <= wait_s
    assert predicted_wait_s(queued, service_s, slots + 1, busy + 1) <= wait_s + service_s
    told = retry_after_s(wait_s)
    assert 1 <= told <= LONGEST_RETRY_S
    assert told >= min(wait_s, LONGEST_RETRY_S)


# calls per second


def test_calls_above_the_limit_of_a_function_get_429() -> None:
    """Three calls a second: the fourth at once is refused for a third of a second, and one a second later is not."""
    rig = Rig()
    function = busy_function(rig, None, rate_limit=3.0)
    assert [offer(rig, function) for _ in range(3)] == [None] * 3
    error = offer(rig, function)
    assert error is not None and (error.kind, error.retry_after_s) == (ErrorType.THROTTLED, 1)
    assert (function.throttled, function.calls) == (1, 3)
    rig.now += 0.34
    assert offer(rig, function) is None


def test_calls_above_the_limit_of_a_caller_get_429_and_others_do_not() -> None:
    """A connection that calls too often stops only itself, and is forgotten when its bucket is full."""
    rig = Rig()
    function = busy_function(rig, None, caller_rate_limit=1.0)
    assert offer(rig, function, b"_INBOX.one.1") is None
    assert offer(rig, function, b"_INBOX.one.2") is not None
    assert offer(rig, function, b"_INBOX.two.1") is None
    assert function.rates is not None and function.rates.callers == 2
    assert rig.state.rates == {function.rates}


def test_only_calls_with_a_reply_are_limited() -> None:
    """What nobody waits for takes no token, and is not stopped."""
    rig = Rig()
    function = busy_function(rig, None, rate_limit=1.0)
    assert all(offer(rig, function, b"") is None for _ in range(5))
    assert offer(rig, function) is None
    assert offer(rig, function) is not None


def test_a_probe_takes_no_token() -> None:
    """A deploy asks whether a version can be called; that is no call."""
    rig = Rig()
    function = busy_function(rig, None, rate_limit=1.0)
    probe = errors.headers.block({errors.headers.PROBE: "1"})
    for _ in range(3):
        rig.dispatch.on_call(function, 0, b"fn.f", b"_INBOX.caller.1", probe, b"")
    assert offer(rig, function) is None
