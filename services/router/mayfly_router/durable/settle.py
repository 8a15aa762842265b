"""What becomes of a delivery when its outcome is known: decided here, carried out in `settler`.

A verdict is what has to be stored before the delivery may be acknowledged: the result, a retry, a dead letter, what
goes to a destination. Stored first and acknowledged then, nothing is lost wherever this process dies in between; at
worst the event is delivered once more, and what was stored twice is recognised by its message id or its subject.

A retry is a schedule of the server's: it survives everything, holds no place among the unacknowledged, and can be taken
back. Failures that would be the same again (the event cannot be read, the function is gone, it goes in a circle) are
not tried again.
"""

from datetime import UTC, datetime
from typing import NamedTuple

import msgspec

from mayfly_proto import headers, records, results, states, storage, subjects
from mayfly_proto.errors import CallError, ErrorDetail, ErrorType
from mayfly_proto.records import IdempotencyRecord, Retries, VersionSpec
from mayfly_router.durable import claims
from mayfly_router.durable.delivery import Delivery

PERMANENT = frozenset({ErrorType.BAD_REQUEST, ErrorType.TOO_LARGE, ErrorType.NOT_FOUND, ErrorType.LOOP})
LONGEST_TRACEBACK = 8 * 1024  # characters, in a header
JITTER = 0.2  # of a back-off, up or down
ROOM = 1 << 20  # what nats-server takes unless it is told otherwise

_CONTENT_TYPE = headers.CONTENT_TYPE.encode()
_CLOUD_EVENT = headers.CLOUD_EVENT.encode()


class Write(NamedTuple):
    """A message to publish: a stream has to take it, or it is just sent (to a subject of the user's own)."""

    subject: str
    headers: bytes
    payload: bytes
    stored: bool = True


class Verdict(NamedTuple):
    writes: list[Write]
    final: bool = True  # False: it comes again
    again_in_s: float | None = None  # it comes again from here, without the stream: its key waits for it


def succeeded(delivery: Delivery, raw: bytes | None, payload: bytes, spec: VersionSpec | None) -> Verdict:
    """``raw`` and ``payload`` are the function's result."""
    writes = []
    if delivery.is_call:
        writes.append(_record(delivery, states.Invocation.SUCCEEDED, raw, payload, delivery.attempt))
    if spec is not None and (key := delivery.claim):
        kept = len(payload) <= claims.LARGEST
        writes.append(_claim(key, delivery, spec, raw if kept else None, payload if kept else b""))
    if spec is not None and spec.on_success:
        content_type = headers.find(raw or b"", _CONTENT_TYPE)
        kind = {headers.CONTENT_TYPE: content_type.decode("utf-8", "replace")} if content_type else {}
        writes.append(_publish(delivery, spec.on_success, "success", kind, payload))
    return Verdict(writes)


def failed(
    delivery: Delivery, error: CallError, spec: VersionSpec | None, now: float, jitter: float, room: int = ROOM
) -> Verdict:
    """``now``: Unix time. ``jitter``: from 0 to 1. ``spec`` None: there is no such function any longer. ``room``: the
    bytes of a message."""
    retries = spec.retries if spec is not None else Retries(attempts=1)
    wait_s = backoff_s(retries, delivery.attempt, jitter)
    first_at = delivery.first_at or int(now * 1000)
    if error.kind in PERMANENT or spec is None:
        return _given_up(delivery, error, spec, now, first_at, "", room)
    if delivery.attempt >= retries.attempts:
        of = f" (attempt {delivery.attempt} of {retries.attempts})"
        return _given_up(delivery, error, spec, now, first_at, of, room)
    if now + wait_s - first_at / 1000 > retries.max_age_s:
        return _given_up(delivery, error, spec, now, first_at, f" (tried for {retries.max_age_s:g} s)", room)
    delivery.first_at = first_at
    writes = [again_at(delivery, now + wait_s, delivery.attempt + 1)]
    if delivery.is_call:
        writes.append(_record(delivery, states.Invocation.RETRYING, error.headers(), error.body(), delivery.attempt))
    if spec.ordered:
        return Verdict(writes[1:], final=False, again_in_s=wait_s)
    return Verdict(writes, final=False)


def repeated(delivery: Delivery, raw: bytes, payload: bytes) -> Verdict:
    """A call that was made before: ``raw`` and ``payload`` are the first one's result."""
    raw = headers.added(raw, {headers.REPLAYED: "true"})
    return Verdict([_record(delivery, states.Invocation.SUCCEEDED, raw, payload, 0)])


def later(delivery: Delivery, at: float) -> Verdict:
    """A call that was sent to run at a time of its own, in Unix time."""
    record = _record(delivery, states.Invocation.SCHEDULED, None, b"", 0)
    return Verdict([again_at(delivery, at, 1), record], final=False)


def cancelled(delivery: Delivery, spec: VersionSpec | None) -> Verdict:
    writes = [_record(delivery, states.Invocation.CANCELLED, None, b"", delivery.attempt - 1)]
    if spec is not None and (key := delivery.claim):
        writes.append(_claim(key, delivery, spec))
    return Verdict(writes)


def backoff_s(retries: Retries, attempt: int, jitter: float) -> float:
    """How long after this attempt the next one comes: doubling, give or take a fifth."""
    doubled: float = retries.backoff_s * 2 ** min(attempt - 1, 30)
    return min(retries.max_backoff_s, doubled) * (1 + JITTER * (2 * jitter - 1))


def again_at(delivery: Delivery, at: float, attempt: int) -> Write:
    """A schedule by which it comes again. Under the same subject a second one takes the place of the first."""
    ours = {
        headers.SCHEDULE: f"@at {rfc3339(at)}",
        headers.SCHEDULE_TARGET: subjects.due(delivery.source.function),
        headers.INVOCATION: delivery.invocation,
        headers.ATTEMPT: str(attempt),
        headers.EVENT_SUBJECT: delivery.subject,
        headers.FIRST_AT: str(delivery.first_at),
    }
    block = headers.added(headers.publishers(delivery.headers), ours)
    return Write(subjects.schedule(delivery.source.function, delivery.identity), block, delivery.payload)


def rfc3339(at: float) -> str:
    return results.rfc3339(datetime.fromtimestamp(at, UTC))


def _given_up(
    delivery: Delivery, error: CallError, spec: VersionSpec | None, now: float, first_at: int, how: str, room: int
) -> Verdict:
    function = delivery.source.function
    traceback = error.traceback[-LONGEST_TRACEBACK:]
    detail = msgspec.structs.replace(error.detail(), invocation=delivery.invocation, traceback=traceback)
    ours = {
        headers.REASON: f"{error.kind.value}: {error.message}{how}"[:1000],
        headers.ATTEMPTS: str(delivery.attempt),
        headers.FAILED_AT: rfc3339(now),
        headers.INVOCATION: delivery.invocation,
        headers.EVENT_SUBJECT: delivery.subject,
        headers.MESSAGE_ID: f"{function}.{delivery.identity}.{first_at}",
    }
    if spec is not None:
        ours[headers.VERSION] = str(spec.version)
    writes = [_letter(delivery, ours, detail, room)]
    if delivery.is_call:
        writes.append(_record(delivery, states.Invocation.FAILED, error.headers(), error.body(), delivery.attempt))
    if spec is not None and (key := delivery.claim):
        writes.append(_claim(key, delivery, spec))
    if spec is not None and spec.on_failure:
        kind = {headers.CONTENT_TYPE: "application/json"}
        writes.append(_publish(delivery, spec.on_failure, "failure", kind, error.body()))
    return Verdict(writes)


def _letter(delivery: Delivery, ours: dict[str, str], detail: ErrorDetail, room: int) -> Write:
    """What was as large as a message may be has no room for the reason: then it goes without the traceback, or without
    the publisher's headers, or, left where it was published, without the payload."""
    subject, payload = subjects.dead_letter(delivery.source.function), delivery.payload
    theirs = headers.publishers(delivery.headers)
    short = msgspec.structs.replace(detail, message=detail.message[:1000], traceback="")
    for error, kept in ((detail, theirs), (short, theirs), (short, None)):
        fields = ours | {headers.ERROR: msgspec.json.encode(error).decode()}
        block = headers.added(kept, fields)
        if len(block) + len(payload) <= room:
            return Write(subject, block, payload)
    where = f"; its {len(payload)} bytes, {delivery.source.stream} {delivery.sequence}, are too many for a dead letter"
    return Write(subject, headers.block(fields | {headers.REASON: ours[headers.REASON] + where}), b"")


def _record(delivery: Delivery, state: states.Invocation, raw: bytes | None, payload: bytes, attempts: int) -> Write:
    """The last word on a call."""
    block = headers.added(raw, {headers.STATE: state.value, headers.ATTEMPTS: str(attempts)})
    return Write(subjects.result(delivery.invocation, delivery.source.function), block, payload)


def _claim(key: str, delivery: Delivery, spec: VersionSpec, raw: bytes | None = None, payload: bytes = b"") -> Write:
    """What came of a call with an idempotency key; without a result, the next one with the key is the first."""
    record = IdempotencyRecord(invocation=delivery.invocation, headers=raw, payload=payload)
    block = headers.block({headers.TTL: str(spec.idempotency_ttl_s)})
    return Write(subjects.kv(storage.IDEMPOTENCY, key), block, records.encode(record))


def _publish(delivery: Delivery, subject: str, how: str, fields: dict[str, str], payload: bytes) -> Write:
    """To a destination, with the attributes of the event that it came from."""
    function = delivery.source.function
    ours = fields | {
        headers.MESSAGE_ID: f"{function}.{delivery.identity}.{how}",
        headers.SOURCE: delivery.invocation,
        headers.SOURCE_FUNCTION: function,
        headers.DEPTH: str(delivery.depth + 1),
    }
    kept = [line for line in (delivery.headers or b"").split(b"\r\n") if line.lower().startswith(_CLOUD_EVENT)]
    block = headers.block(ours)
    stored = subject.startswith(subjects.event(""))
    return Write(subject, block[:-2] + b"".join(line + b"\r\n" for line in kept) + b"\r\n", payload, stored)
