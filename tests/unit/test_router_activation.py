"""The rule by which instances are ordered, as properties and as a simulation of a burst."""

import heapq
from math import ceil, log2

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mayfly_router.activation import PENDING_CAP, Demand, backoff_s, need, patience_s

HUGE = 10**9


@st.composite
def demands(draw: st.DrawFn) -> Demand:
    concurrency = draw(st.integers(1, 50))
    ready = draw(st.integers(0, 200))
    return Demand(
        queued=draw(st.integers(0, 3000)),
        free=draw(st.integers(0, 5)),
        busy=draw(st.integers(0, ready * concurrency)),
        ready=ready,
        starting=draw(st.integers(0, 200)),
        concurrency=concurrency,
        room=draw(st.integers(-3, 300)),
        eager=draw(st.booleans()),
        failing=draw(st.booleans()),
        service_s=draw(st.none() | st.floats(1e-4, 100)),
        cold_s=draw(st.floats(0.001, 5)),
        head_age_s=draw(st.floats(0, 20)),
        waiting_s=draw(st.floats(0, 20)),
        since_order_s=draw(st.floats(0, 20)),
    )


def with_(demand: Demand, **changes: object) -> Demand:
    return msgspec.structs.replace(demand, **changes)


@pytest.mark.invariant("P1", "P3", "P5")
@given(demands())
@settings(max_examples=500)
def test_never_more_than_the_limit_or_the_cap_or_the_queue_asks(demand: Demand) -> None:
    """An order stays within the room, within max(32, ready) under way, and within one instance per waiting call."""
    n = need(demand)
    assert 0 <= n <= max(0, demand.room)
    assert n == 0 or demand.starting + n <= max(PENDING_CAP, demand.ready)
    assert n <= ceil(demand.queued / demand.concurrency)


@pytest.mark.invariant("P2")
@given(demands())
@settings(max_examples=500)
def test_asking_twice_orders_nothing_more(demand: Demand) -> None:
    """What has been ordered covers the queue: the second of two questions is answered by 0."""
    n = need(demand)
    again = with_(demand, starting=demand.starting + n, room=demand.room - n, since_order_s=0.0)
    assert not n or need(again) == 0


@pytest.mark.invariant("P4")
@given(demands(), st.integers(0, 500))
def test_a_longer_queue_never_asks_for_less(demand: Demand, more: int) -> None:
    """The order grows with the queue and shrinks with what is starting already."""
    assert need(with_(demand, queued=demand.queued + more)) >= need(demand)
    assert need(with_(demand, starting=demand.starting + 1)) <= need(demand)


@pytest.mark.invariant("P3")
@given(demands())
def test_free_slots_that_cover_the_queue_order_nothing(demand: Demand) -> None:
    """No instance is ordered for calls that a free slot can take."""
    assert need(with_(demand, free=demand.queued)) == 0


@pytest.mark.invariant("P6")
@given(demands())
def test_nobody_waits_on_credit_beyond_a_cold_start(demand: Demand) -> None:
    """When the oldest call has waited one cold start, a start is under way or the limit is reached."""
    late = with_(demand, head_age_s=patience_s(demand.cold_s) + 1)
    if late.queued > late.free:
        assert late.starting + need(late) > 0 or late.room <= 0


def test_a_queue_that_stays_gets_one_more_per_cold_start() -> None:
    """A queue that has not been empty for two cold starts orders one instance more each cold start, up to the limit."""
    covered = Demand(queued=5, ready=1, busy=1, starting=5, room=3, service_s=10.0, cold_s=0.1, waiting_s=0.3)
    assert need(with_(covered, since_order_s=0.1)) == 1
    assert need(with_(covered, since_order_s=0.05)) == 0
    assert need(with_(covered, since_order_s=0.1, waiting_s=0.15)) == 0
    assert need(with_(covered, since_order_s=0.1, room=0)) == 0


def test_balanced_waits_for_slots_that_free_soon_and_eager_does_not() -> None:
    """With 64 busy slots of 5 ms calls and 8 waiting, only an eager function orders instances."""
    busy = Demand(queued=8, ready=64, busy=64, room=HUGE, service_s=0.005, cold_s=0.05)
    assert need(busy) == 0
    assert need(with_(busy, eager=True)) == 8


@pytest.mark.invariant("S10")
def test_a_failing_function_is_probed_one_start_at_a_time() -> None:
    """After a failed start, with nothing ready, a long queue has one start under way and no more."""
    failing = Demand(queued=1000, room=100, failing=True)
    assert need(failing) == 1
    assert need(with_(failing, starting=1)) == 0


@pytest.mark.invariant("S10")
def test_backoff_begins_with_the_fifth_failure_and_ends_at_half_a_minute() -> None:
    """Four failures in a row are retried at once; later ones 0.2 s, doubling to 30 s, plus or minus a fifth."""
    assert [backoff_s(n, 0.5) for n in (1, 4, 5, 6, 7)] == [0, 0, 0.2, 0.4, 0.8]
    assert backoff_s(500, 0.5) == 30
    assert backoff_s(5, 0.0) < 0.2 < backoff_s(5, 1.0) <= 0.241


def burst(calls: int, cold_s: float, service_s: float) -> tuple[int, int, float]:
    """All calls at once on nothing: (instances started, most starts under way before 32 were ready, longest wait)."""
    now, queue, ready, busy, starting, peak = 0.0, calls, 0, 0, 0, 0
    learnt: float | None = None
    ordered_at = float("-inf")
    events: list[tuple[float, str]] = [(k * 0.02, "tick") for k in range(1, 400)]
    heapq.heapify(events)
    last_start = 0.0
    while queue or busy:
        n = need(
            Demand(
                queued=queue,
                busy=busy,
                ready=ready,
                starting=starting,
                room=HUGE,
                service_s=learnt,
                cold_s=cold_s,
                head_age_s=now,
                waiting_s=now if queue else 0.0,
                since_order_s=now - ordered_at,
            )
        )
        if n:
            starting, ordered_at = starting + n, now
            for _ in range(n):
                heapq.heappush(events, (now + cold_s, "ready"))
            assert starting <= max(PENDING_CAP, ready)
        if ready < PENDING_CAP:
            peak = max(peak, starting)
        if queue:
            last_start = now
        now, event = heapq.heappop(events)
        if event == "ready":
            starting, ready = starting - 1, ready + 1
        elif event == "done":
            busy, learnt = busy - 1, service_s
        if event != "tick" and queue:
            queue, busy = queue - 1, busy + 1
            heapq.heappush(events, (now + service_s, "done"))
    return ready + starting, peak, last_start


@pytest.mark.invariant("S7", "S8")
def test_a_thousand_first_calls_do_not_start_a_thousand_instances() -> None:
    """A thousand calls at once on a function at zero start as many as their duration deserves, in waves of at most 32
    until 32 are ready, and nobody waits longer than the waves take."""
    for cold_s, service_s, best in ((0.005, 0.001, 102), (0.25, 0.001, 64), (0.25, 0.02, 128), (0.25, 0.2, 512)):
        started, peak, waited = burst(1000, cold_s, service_s)
        assert started <= 1.1 * best, (cold_s, service_s, started)
        assert peak <= PENDING_CAP
        clearing = 1000 * service_s / PENDING_CAP
        assert waited <= patience_s(cold_s) + cold_s * (1 + log2(1000 / PENDING_CAP)) + clearing
