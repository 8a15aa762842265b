"""What becomes of a delivery, decided from its outcome alone."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mayfly_proto import headers, records, subjects
from mayfly_proto.errors import CallError, ErrorDetail, ErrorType
from mayfly_proto.records import IdempotencyRecord, Package, Retries, VersionSpec
from mayfly_router.durable import claims, settle
from mayfly_router.durable.delivery import Delivery
from mayfly_router.durable.source import Source

NOW = 1_800_000_000.0
BOOM = CallError(ErrorType.FUNCTION_ERROR, "ValueError: no", component="function", traceback="Traceback: ...")
RESULT = headers.block({headers.INVOCATION: "E7", headers.CONTENT_TYPE: "text/plain"})


def spec(**fields: Any) -> VersionSpec:
    package = Package(sha256="0", size=1, format="py", filename="f.py")
    return VersionSpec(
        name="shop.bill", version=3, runtime="python", handler="f:f", package=package, created="", **fields
    )


def delivery(stream: str = "EVENTS", raw: bytes | None = None, **fields: Any) -> Delivery:
    source = Source("shop.bill", stream, "shop_bill_1")
    ack = f"$JS.ACK.{stream}.shop_bill_1.1.7.9.1700000000000000000.0".encode()
    made = Delivery(source, ack, 1, 7, 0.0).fill(b"event.orders.created", raw, b"{}")
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def found(write: settle.Write, name: str) -> str:
    return headers.parse(write.headers)[name]


def test_an_event_that_went_well_needs_nothing_stored() -> None:
    """The acknowledgement is all: no write per event that nobody asked for."""
    assert settle.succeeded(delivery(), RESULT, b'"x"', spec()) == settle.Verdict([])


def test_the_result_of_a_call_is_stored_before_it_is_acknowledged() -> None:
    """Who has the id finds the function's own payload and content type, and how it ended."""
    (write,) = settle.succeeded(delivery("ASYNC"), RESULT, b"done", spec()).writes
    assert write.subject == "result.A7.shop.bill"
    assert write.payload == b"done"
    assert found(write, headers.STATE) == "succeeded"
    assert found(write, headers.CONTENT_TYPE) == "text/plain"


def test_a_success_goes_to_its_destination_as_it_is() -> None:
    """With the id of the event it came from, one function deeper, recognisable when it is published twice."""
    event = delivery(raw=headers.block({"ce-id": "1", "ce-type": "order", "X-Other": "y", headers.DEPTH: "2"}))
    (write,) = settle.succeeded(event, RESULT, b"done", spec(on_success="event.orders.billed")).writes
    assert (write.subject, write.payload) == ("event.orders.billed", b"done")
    assert headers.parse(write.headers) == {
        headers.CONTENT_TYPE: "text/plain",
        headers.MESSAGE_ID: "shop.bill.E7.success",
        headers.SOURCE: "E7",
        headers.SOURCE_FUNCTION: "shop.bill",
        headers.DEPTH: "3",
        "ce-id": "1",
        "ce-type": "order",
    }


def test_a_failure_is_tried_again_by_a_schedule_of_its_own() -> None:
    """It holds no place while it waits, keeps id, subject and the publisher's headers, and counts its attempts."""
    event = delivery(raw=headers.block({"X-Own": "1", "Nats-Msg-Id": "m1"}))
    verdict = settle.failed(event, BOOM, spec(), NOW, 0.5)
    assert not verdict.final
    (write,) = verdict.writes
    assert write.subject == "mayfly.schedule.shop.bill.E7"
    assert write.payload == b"{}"
    assert headers.parse(write.headers) == {
        headers.SCHEDULE: f"@at {settle.rfc3339(NOW + 1)}",
        headers.SCHEDULE_TARGET: "mayfly.due.shop.bill",
        headers.INVOCATION: "E7",
        headers.ATTEMPT: "2",
        headers.EVENT_SUBJECT: "event.orders.created",
        headers.FIRST_AT: str(int(NOW * 1000)),
        "X-Own": "1",
    }


def test_a_retry_read_back_is_the_same_event() -> None:
    """What the schedule fires carries everything on: the next failure is the third attempt, not the second again."""
    event = delivery(raw=headers.block({"X-Own": "1"}))
    (write,) = settle.failed(event, BOOM, spec(), NOW, 0.5).writes
    fired = headers.added(write.headers, {headers.SCHEDULER: write.subject, headers.SCHEDULE_NEXT: "purge"})
    due = Source("shop.bill", "SCHEDULES", "shop_bill")
    again = Delivery(due, b"$JS.ACK.SCHEDULES.shop_bill.1.90.1.0.0", 1, 90, 0.0)
    again.fill(b"mayfly.due.shop.bill", fired, write.payload)
    assert (again.invocation, again.identity, again.attempt) == ("E7", "E7", 2)
    assert (again.subject, again.headers) == ("event.orders.created", headers.block({"X-Own": "1"}))
    assert again.first_at == int(NOW * 1000)


@given(
    attempt=st.integers(1, 60),
    backoff=st.floats(0.1, 100),
    longest=st.floats(100, 1000),
    jitter=st.floats(0, 1),
)
def test_back_off_doubles_within_its_bounds(attempt: int, backoff: float, longest: float, jitter: float) -> None:
    """Never before four fifths of what is due, never after the longest wait and a fifth."""
    retries = Retries(attempts=100, backoff_s=backoff, max_backoff_s=longest)
    due = min(longest, backoff * 2 ** (attempt - 1))
    assert 0.79 * due <= settle.backoff_s(retries, attempt, jitter) <= 1.21 * due


def test_after_the_last_attempt_it_is_a_dead_letter() -> None:
    """With all that somebody needs who looks at it later, and nothing of NATS's own."""
    event = delivery(raw=headers.block({"X-Own": "1", "Nats-Msg-Id": "m1"}), attempt=3, first_at=1_799_999_000_000)
    verdict = settle.failed(event, BOOM, spec(), NOW, 0.5)
    assert verdict.final
    (write,) = verdict.writes
    assert (write.subject, write.payload) == ("dlq.shop.bill", b"{}")
    said = headers.parse(write.headers)
    assert said.pop(headers.REASON) == "function_error: ValueError: no (attempt 3 of 3)"
    detail = msgspec.json.decode(said.pop(headers.ERROR), type=ErrorDetail)
    assert (detail.type, detail.message, detail.traceback) == ("function_error", "ValueError: no", "Traceback: ...")
    assert said == {
        headers.ATTEMPTS: "3",
        headers.FAILED_AT: settle.rfc3339(NOW),
        headers.INVOCATION: "E7",
        headers.EVENT_SUBJECT: "event.orders.created",
        headers.MESSAGE_ID: "shop.bill.E7.1799999000000",
        headers.VERSION: "3",
        "X-Own": "1",
    }


@pytest.mark.parametrize("kind", [ErrorType.BAD_REQUEST, ErrorType.TOO_LARGE, ErrorType.LOOP, ErrorType.NOT_FOUND])
def test_what_would_fail_again_is_not_tried_again(kind: ErrorType) -> None:
    """No waiting for what cannot become better."""
    verdict = settle.failed(delivery(), CallError(kind, "no", component="x"), spec(), NOW, 0.5)
    assert [write.subject for write in verdict.writes] == ["dlq.shop.bill"]


def test_an_event_of_a_function_that_is_gone_is_a_dead_letter() -> None:
    """It is not lost with the function."""
    verdict = settle.failed(delivery(), BOOM, None, NOW, 0.5)
    assert [write.subject for write in verdict.writes] == ["dlq.shop.bill"]


def test_age_counts_from_the_first_attempt() -> None:
    """An event that waited for days has all its attempts; one that was tried for too long has no more."""
    retries = Retries(attempts=10, max_age_s=60)
    assert not settle.failed(delivery(), BOOM, spec(retries=retries), NOW, 0.5).final
    tried = delivery(attempt=2, first_at=int((NOW - 59) * 1000))
    verdict = settle.failed(tried, BOOM, spec(retries=retries), NOW, 0.5)
    assert verdict.final
    assert found(verdict.writes[0], headers.REASON).endswith("(tried for 60 s)")


def test_a_failure_goes_to_its_destination_after_the_last_attempt_only() -> None:
    """Who listens there hears of each event once."""
    declared = spec(on_failure="event.orders.failed")
    assert all("failed" not in w.subject for w in settle.failed(delivery(), BOOM, declared, NOW, 0.5).writes)
    last = settle.failed(delivery(attempt=3), BOOM, declared, NOW, 0.5)
    (write,) = [write for write in last.writes if write.subject == "event.orders.failed"]
    assert msgspec.json.decode(write.payload)["error"]["type"] == "function_error"
    assert found(write, headers.SOURCE) == "E7"


def test_in_an_order_a_retry_waits_here() -> None:
    """Its key waits for it, so it must not go away and come back behind others."""
    verdict = settle.failed(delivery(), BOOM, spec(ordered="subject.2"), NOW, 0.5)
    assert verdict == settle.Verdict([], final=False, again_in_s=1.0)


def test_a_call_says_that_it_will_be_tried_again() -> None:
    """Who asks for the result meanwhile sees the last error and that more comes."""
    schedule, record = settle.failed(delivery("ASYNC"), BOOM, spec(), NOW, 0.5).writes
    assert schedule.subject == "mayfly.schedule.shop.bill.A7"
    assert record.subject == "result.A7.shop.bill"
    assert (found(record, headers.STATE), found(record, headers.ATTEMPTS)) == ("retrying", "1")


def test_the_result_of_a_call_with_a_key_is_kept_for_the_next_one() -> None:
    """Stored before the acknowledgement; a call that failed for good leaves the key to the next one."""
    call = delivery("ASYNC", raw=headers.block({headers.IDEMPOTENCY_KEY: "order 7"}), claimed=True)
    key = subjects.kv("idempotency", claims.key("shop.bill", "order 7"))
    _, kept = settle.succeeded(call, RESULT, b"done", spec(idempotency_ttl_s=60)).writes
    assert kept.subject == key
    assert found(kept, headers.TTL) == "60"
    assert records.decode(kept.payload, IdempotencyRecord).payload == b"done"
    call.attempt = 3
    dropped = settle.failed(call, BOOM, spec(), NOW, 0.5).writes[-1]
    assert dropped.subject == key
    record = records.decode(dropped.payload, IdempotencyRecord)
    assert (record.headers, record.until) == (None, 0.0)


def test_a_result_too_large_to_keep_does_not_keep_its_call_from_ending() -> None:
    """The next call with the key runs again; a claim that no server takes would have this one run for ever."""
    call = delivery("ASYNC", raw=headers.block({headers.IDEMPOTENCY_KEY: "order 7"}), claimed=True)
    result, claim = settle.succeeded(call, RESULT, b"x" * (claims.LARGEST + 1), spec()).writes
    assert len(result.payload) == claims.LARGEST + 1
    record = records.decode(claim.payload, IdempotencyRecord)
    assert (record.headers, record.payload, record.until) == (None, b"", 0.0)
    (_, largest) = settle.succeeded(call, RESULT, b"x" * claims.LARGEST, spec()).writes
    assert len(largest.payload) < 8 * 1024 * 1024


def test_only_an_event_has_a_stream_to_wait_for() -> None:
    """A destination of the operator's own, on which nobody may listen, must not keep the event from ending."""
    for subject, stored in (("event.billed", True), ("alerts.billed", False)):
        (success,) = settle.succeeded(delivery(), RESULT, b"", spec(on_success=subject)).writes
        last = delivery(attempt=3)
        dead_letter, failure = settle.failed(last, BOOM, spec(on_failure=subject), NOW, 0.5).writes
        assert (success.stored, dead_letter.stored, failure.stored) == (stored, True, stored)


def test_a_call_that_never_had_its_key_leaves_it_to_whose_it_is() -> None:
    """One that is refused at the door, as in a circle, does not take the first one's result away."""
    call = delivery("ASYNC", raw=headers.block({headers.IDEMPOTENCY_KEY: "order 7"}))
    loop = CallError(ErrorType.LOOP, "a circle", component="router")
    written = [write.subject for write in settle.failed(call, loop, spec(), NOW, 0.5).writes]
    assert written == ["dlq.shop.bill", "result.A7.shop.bill"]


def test_two_streams_with_the_same_sequence_do_not_share_a_retry() -> None:
    """A retry takes the place of the one before it under its subject: never that of another event."""
    one = Delivery(Source("f", "ORDERS", "f_1"), b"$JS.ACK.ORDERS.f_1.1.7.1.0.0", 1, 7, 0).fill(b"orders.a", None, b"")
    two = Delivery(Source("f", "BILLS", "f_2"), b"$JS.ACK.BILLS.f_2.1.7.1.0.0", 1, 7, 0).fill(b"bills.a", None, b"")
    retries = [settle.failed(each, BOOM, spec(), NOW, 0.5).writes[0].subject for each in (one, two)]
    assert len(set(retries)) == 2
