"""CloudEvents: the attributes of an event, from its headers (``ce-*``) or from an envelope around it.

What was published without any is an event too, and has defaults.
"""

import base64
import json
import urllib.parse
from dataclasses import dataclass, field
from typing import Any

CONTENT_TYPE = "application/cloudevents+json"
_PREFIX = "ce-"
_TICK = "mayfly.schedule"
_SCHEDULES = ("mayfly.schedule.", "mayfly.due.")


@dataclass(frozen=True, slots=True)
class Event:
    """`attributes` are those that it came with, extensions too; the others have defaults where these have none."""

    id: str
    source: str
    type: str
    specversion: str = "1.0"
    subject: str | None = None
    time: str | None = None  # RFC 3339
    datacontenttype: str | None = None
    dataschema: str | None = None
    nats_subject: str | None = None  # where it was published
    attributes: dict[str, str] = field(default_factory=dict)


def describe(
    headers: dict[str, str], envelope: dict[str, str] | None, invocation: str, nats_subject: str | None
) -> Event | None:
    """None for a call that is no event."""
    attributes = from_headers(headers) if envelope is None else envelope
    if not attributes and nats_subject is None:
        return None
    optional = ("subject", "time", "datacontenttype", "dataschema")
    return Event(
        id=attributes.get("id", invocation),
        source=attributes.get("source", "nats"),
        type=attributes.get("type", _TICK if _is_tick(headers, nats_subject) else nats_subject or ""),
        specversion=attributes.get("specversion", "1.0"),
        nats_subject=nats_subject,
        attributes=attributes,
        **{name: attributes.get(name) for name in optional},
    )


def _is_tick(headers: dict[str, str], nats_subject: str | None) -> bool:
    """A schedule's name ends in ``t<number>``; that of one call for later is the call's id."""
    if (nats_subject or "").startswith(_SCHEDULES):
        return True
    name = headers.get("Nats-Scheduler", "").rpartition(".")[2]
    return name.startswith("t") and name[1:].isdigit()


def from_headers(headers: dict[str, str]) -> dict[str, str]:
    """Values are percent-encoded there."""
    attributes = {
        name[len(_PREFIX) :].lower(): urllib.parse.unquote(value)
        for name, value in headers.items()
        if name[: len(_PREFIX)].lower() == _PREFIX
    }
    if attributes:
        content_type = next((value for name, value in headers.items() if name.lower() == "content-type"), None)
        if content_type is not None:
            attributes.setdefault("datacontenttype", content_type)
    return attributes


def to_headers(attributes: dict[str, str]) -> dict[str, str]:
    """All but the content type, which the payload they go with says itself."""
    return {
        f"{_PREFIX}{name}": urllib.parse.quote(value, safe=" !#$&'()*+,/:;=?@[]^_`{|}~<>")
        for name, value in attributes.items()
        if name != "datacontenttype"
    }


def unwrap(payload: bytes) -> tuple[Any, dict[str, str]]:
    """The data and the attributes of an envelope. Raises ValueError."""
    envelope = json.loads(payload)
    if not isinstance(envelope, dict):
        raise ValueError("it is not an object")
    encoded = envelope.pop("data_base64", None)
    data = envelope.pop("data", None)
    if encoded is not None:
        if not isinstance(encoded, str):
            raise ValueError("data_base64 is not text")
        data = base64.b64decode(encoded, validate=True)
    attributes = {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in envelope.items()
        if value is not None
    }
    return data, attributes
