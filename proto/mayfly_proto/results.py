"""A message of the stream RESULTS: what is known of a durable call, and how it becomes a result or an error."""

import re
from datetime import UTC, datetime

from mayfly_proto import api, errors, headers, states, subjects

ID = re.compile(r"[A-Z][1-9][0-9]{0,18}")
ID_RULE = "a letter and a number, such as A17"

_JSON = "application/json"


def invocation(subject: str, raw: bytes | None, payload: bytes, time: datetime) -> api.Invocation:
    """``result.A17.billing.charge``, as it was published at ``time``."""
    _, identity, function = subject.split(".", 2)
    state = _first(raw, headers.STATE)
    succeeded = state == states.Invocation.SUCCEEDED.value
    error = errors.from_reply(raw, payload)
    return api.Invocation(
        id=identity,
        function=function,
        state=state,
        time=rfc3339(time),
        attempts=number(_first(raw, headers.ATTEMPTS)),
        content_type=(_first(raw, headers.CONTENT_TYPE) or _JSON) if succeeded else "",
        payload=payload if succeeded else None,
        size=len(payload) if succeeded else 0,
        error=None if error is None else error.detail(),
    )


def is_final(known: api.Invocation) -> bool:
    """Whether there is nothing more to come."""
    return any(state.final and state.value == known.state for state in states.Invocation)


def function_of(subject: str) -> str:
    """The function that a durable call's subject names."""
    return subject.removeprefix(subjects.async_call(""))


def rfc3339(time: datetime) -> str:
    """As every time that people read: UTC, milliseconds."""
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _first(raw: bytes | None, name: str) -> str:
    """The router's word stands before what the function has said."""
    return (headers.find(raw or b"", name.encode()) or b"").decode("utf-8", "replace")


def number(text: str | None) -> int:
    return int(text) if text and text.isascii() and text.isdigit() else 0
