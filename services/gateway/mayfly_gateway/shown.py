"""Results and dead letters for people: a payload is part of the record's JSON, as JSON or text, else base64."""

import base64

import msgspec

from mayfly_proto import api, errors, headers

BASE64 = "base64"

_TEXT = ("text/", "application/xml", "application/x-www-form-urlencoded")


class Invocation(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is known of a durable call."""

    id: str
    function: str
    state: str  # pending, scheduled, retrying, succeeded, failed or cancelled
    time: str  # of this state; RFC 3339, UTC
    attempts: int  # that are over
    content_type: str = ""
    result: msgspec.Raw | None = None  # what the function returned: JSON, text, or base64
    encoding: str = ""  # "base64" where the result is that
    error: errors.ErrorDetail | None = None


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An event or durable call that failed for good."""

    sequence: int
    function: str
    invocation: str
    subject: str
    reason: str
    attempts: int
    failed_at: str
    size: int
    error: errors.ErrorDetail | None = None
    headers: dict[str, str] = {}
    payload: msgspec.Raw | None = None  # JSON, text, or base64
    encoding: str = ""


def invocation(known: api.Invocation) -> Invocation:
    result, encoding = _readable(known.payload, known.content_type)
    return Invocation(
        id=known.id,
        function=known.function,
        state=known.state,
        time=known.time,
        attempts=known.attempts,
        content_type=known.content_type,
        result=result,
        encoding=encoding,
        error=known.error,
    )


def dead_letter(letter: api.DeadLetter) -> DeadLetter:
    kind = next((value for name, value in letter.headers.items() if name.lower() == _CONTENT_TYPE), "")
    payload, encoding = _readable(letter.payload, kind)
    return DeadLetter(
        sequence=letter.sequence,
        function=letter.function,
        invocation=letter.invocation,
        subject=letter.subject,
        reason=letter.reason,
        attempts=letter.attempts,
        failed_at=letter.failed_at,
        size=letter.size,
        error=letter.error,
        headers=letter.headers,
        payload=payload,
        encoding=encoding,
    )


_CONTENT_TYPE = headers.CONTENT_TYPE.lower()


def _readable(payload: bytes | None, content_type: str) -> tuple[msgspec.Raw | None, str]:
    """The payload as JSON, and how it is encoded there. Without a content type it is what it looks like."""
    if not payload:
        return None, ""
    media_type = content_type.partition(";")[0].strip().lower()
    if (not media_type or media_type.endswith(("/json", "+json"))) and _is_json(payload):
        return msgspec.Raw(payload), ""
    if not media_type or media_type.startswith(_TEXT):
        try:
            return msgspec.Raw(msgspec.json.encode(payload.decode())), ""
        except UnicodeDecodeError:
            pass
    return msgspec.Raw(msgspec.json.encode(base64.b64encode(payload).decode())), BASE64


def _is_json(payload: bytes) -> bool:
    try:
        msgspec.json.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    return True
