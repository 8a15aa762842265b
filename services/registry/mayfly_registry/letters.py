"""What a message of the stream DLQ says, and what of it goes back to its function when it is driven again."""

import msgspec

from mayfly_chassis.jetstream import Stored
from mayfly_proto import api, headers, results, subjects
from mayfly_proto.errors import ErrorDetail


def function_of(message: Stored) -> str:
    return message.subject.removeprefix(subjects.dead_letter(""))


def letter(message: Stored, *, full: bool = False, payload_limit: int = 0) -> api.DeadLetter:
    """``full``: with the publisher's headers, the traceback, and the payload if it is not above the limit."""
    fields = headers.parse(message.headers)
    error = _error(fields.get(headers.ERROR, ""))
    if error is not None and not full:
        error = msgspec.structs.replace(error, traceback="")
    return api.DeadLetter(
        sequence=message.sequence,
        function=function_of(message),
        invocation=fields.get(headers.INVOCATION, ""),
        subject=fields.get(headers.EVENT_SUBJECT, ""),
        reason=fields.get(headers.REASON, ""),
        attempts=results.number(fields.get(headers.ATTEMPTS)),
        failed_at=fields.get(headers.FAILED_AT) or results.rfc3339(message.time),
        size=len(message.payload),
        error=error,
        headers=headers.parse(headers.publishers(message.headers)) if full else {},
        payload=message.payload if full and len(message.payload) <= payload_limit else None,
    )


def again(message: Stored) -> bytes:
    """The header block with which a dead letter is published as due: a first attempt, with the id that it always had.

    The message id names this dead letter, so one that is driven twice within NATS's window runs once.
    """
    fields = headers.parse(message.headers)
    invocation = fields.get(headers.INVOCATION, "")
    ours = {
        headers.INVOCATION: invocation,
        headers.EVENT_SUBJECT: fields.get(headers.EVENT_SUBJECT, ""),
        headers.ATTEMPT: "1",
        headers.MESSAGE_ID: f"redrive.{message.sequence}.{invocation}",
    }
    theirs = headers.publishers(message.headers)
    return headers.added(theirs, {name: value for name, value in ours.items() if value})


def _error(text: str) -> ErrorDetail | None:
    try:
        return msgspec.json.decode(text, type=ErrorDetail) if text else None
    except msgspec.MsgspecError:
        return None
