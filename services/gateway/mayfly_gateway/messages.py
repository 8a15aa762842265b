"""What is published for an HTTP request that is not waited for: subjects, headers and message ids of durable calls and
events."""

import hashlib
import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

from mayfly_gateway import cloud_events, times, translation
from mayfly_gateway.cloud_events import BATCHED, STRUCTURED, Event
from mayfly_gateway.translation import COMPONENT, Field
from mayfly_proto import headers, names, subjects
from mayfly_proto.errors import CallError, ErrorType

__all__ = [
    "BATCHED",
    "Given",
    "call_id",
    "event_block",
    "event_id",
    "event_subject",
    "events",
    "given",
    "later",
    "listing",
]

_MESSAGE_ID = re.compile(r"[!-~]{1,200}")

CREDENTIALS = frozenset((b"authorization", b"cookie", b"x-api-key"))  # would lie in the stream for all to read
_OF_HTTP = frozenset((b"host", b"user-agent", b"origin", b"referer", b"via", b"forwarded", b"content-length"))
_OF_HTTP_BELOW = (b"accept", b"sec-", b"x-forwarded-", b"mayfly-", b"nats-")


class Given(NamedTuple):
    """An event's headers as the client sent them."""

    fields: dict[str, str]  # that are published
    length: int | None  # of the body, where the client says it
    message_id: str  # "" where it says none

    @property
    def media_type(self) -> str:
        return self.fields.get(headers.CONTENT_TYPE, "").partition(";")[0].strip().lower()


def event_subject(path: str) -> str:
    """``orders/eu/created`` and ``orders.eu.created`` → ``event.orders.eu.created``. Raises CallError (bad_request)."""
    try:
        return subjects.event(names.check_event(path.strip("/").replace("/", ".")))
    except names.InvalidName as error:
        raise _bad(str(error)) from None


def given(fields: Iterable[Field]) -> Given:
    """Raises CallError (bad_request)."""
    kept: dict[str, str] = {}
    length = None
    message_id = ""
    for name, value in fields:
        if name == b"content-type":
            kept[headers.CONTENT_TYPE] = value.decode("utf-8", "replace")
        elif name == b"content-length":
            length = int(value)
        elif name == _MESSAGE_ID_FIELD:
            message_id = _checked_id(value)
        elif not _stays(name):
            kept[name.decode("latin-1")] = value.decode("utf-8", "replace")
    return Given(kept, length, message_id)


def events(found: Given, body: bytes) -> list[Event]:
    """What the request holds: an event as it is, a CloudEvent, or a batch of them. Raises CallError (bad_request)."""
    others = {
        name: value
        for name, value in found.fields.items()
        if name != headers.CONTENT_TYPE and not name.startswith(headers.CLOUD_EVENT)
    }
    if found.media_type == STRUCTURED:
        told = [cloud_events.structured(body)]
    elif found.media_type == BATCHED:
        told = cloud_events.batch(body)
    else:
        cloud_events.check(found.fields)
        return [Event(found.fields, body)]
    return [Event(others | each.fields, each.payload) for each in told]


def event_block(event: Event, message_id: str) -> bytes:
    """Raises CallError (too_large)."""
    return translation.limited(headers.block({headers.MESSAGE_ID: message_id} | event.fields))


def event_id(subject: str, event: Event, said: str, index: int | None) -> str:
    """The message id of an event: what the client ``said``, or one that the same CloudEvent will have again, or "".

    ``index``: in a batch.
    """
    if said:
        return said if index is None else f"{said}.{index}"
    told = cloud_events.identity(event.fields)
    return hashlib.sha256(f"{subject} {told}".encode()).hexdigest() if told else ""


def call_id(function: str, fields: Iterable[Field]) -> str:
    """The message id of a durable call, of its function alone; "" where the client says none."""
    said = next((value for name, value in fields if name == _MESSAGE_ID_FIELD), None)
    return f"{function}.{_checked_id(said)}" if said is not None else ""


def later(fields: Iterable[Field]) -> dict[str, str]:
    """When a durable call is to run, if not at once. Raises CallError (bad_request) that names the header."""
    found = {name: value.decode("latin-1").strip() for name, value in fields if name in _LATER}
    if len(found) > 1:
        raise _bad(f"{headers.AT} and {headers.DELAY}: give one of them")
    for name, text in found.items():
        header, is_right, rule = _LATER[name]
        if not is_right(text):
            raise _bad(f"{header} {text[:40]!r}: must be {rule}")
        return {header: text.upper()}
    return {}


_MESSAGE_ID_FIELD = headers.MESSAGE_ID.lower().encode()
_LATER: dict[bytes, tuple[str, Callable[[str], bool], str]] = {
    headers.AT.lower().encode(): (headers.AT, times.is_time, times.TIME_RULE),
    headers.DELAY.lower().encode(): (headers.DELAY, times.is_delay, times.DELAY_RULE),
}


def listing(indices: list[int]) -> str:
    """`` (0-2, 4)``; nothing for none."""
    spans: list[list[int]] = []
    for index in indices:
        if spans and index == spans[-1][1] + 1:
            spans[-1][1] = index
        else:
            spans.append([index, index])
    words = [f"{first}-{last}" if last > first else f"{first}" for first, last in spans]
    return f" ({', '.join(words)})" if words else ""


def _stays(name: bytes) -> bool:
    return (
        name in translation.NOT_FOR_FUNCTIONS
        or name in CREDENTIALS
        or name in _OF_HTTP
        or name.startswith(_OF_HTTP_BELOW)
    )


def _checked_id(value: bytes) -> str:
    text = value.decode("latin-1")
    if not _MESSAGE_ID.fullmatch(text):
        raise _bad(f"{headers.MESSAGE_ID}: must be 1 to 200 visible ASCII characters")
    return text


def _bad(message: str) -> CallError:
    return CallError(ErrorType.BAD_REQUEST, message, component=COMPONENT)
