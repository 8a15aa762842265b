"""CloudEvents: what the specification asks for is checked, and what is published says the same as what came."""

import base64
import json
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mayfly_gateway import cloud_events
from mayfly_gateway.cloud_events import Event
from mayfly_proto.errors import CallError, ErrorType

REQUIRED = {"specversion": "1.0", "id": "7", "source": "/shop", "type": "created"}
HEADERS = {f"ce-{name}": value for name, value in REQUIRED.items()}


def structured(**members: Any) -> Event:
    return cloud_events.structured(json.dumps(REQUIRED | members).encode())


@pytest.mark.parametrize(
    ("members", "payload", "kind"),
    [
        ({}, b"", None),
        ({"data": None}, b"null", "application/json"),
        ({"data": {"n": 1}}, b'{"n": 1}', "application/json"),
        ({"data": "text"}, b'"text"', "application/json"),
        ({"data": "text", "datacontenttype": "text/plain"}, b"text", "text/plain"),
        ({"data": [1], "datacontenttype": "application/vnd.x+json; v=1"}, b"[1]", "application/vnd.x+json; v=1"),
        ({"data_base64": base64.b64encode(b"\xff\x00").decode()}, b"\xff\x00", None),
        ({"data_base64": "", "datacontenttype": "image/png"}, b"", "image/png"),
    ],
)
def test_data_becomes_the_payload(members: dict[str, Any], payload: bytes, kind: str | None) -> None:
    """JSON as it is written, text as text where the type says so, bytes from base64; the type is the message's."""
    event = structured(**members)
    assert event.payload == payload
    assert event.fields == HEADERS | ({"Content-Type": kind} if kind else {})


def test_numbers_keep_their_digits() -> None:
    """Data is not decoded and written again: nothing is rounded."""
    event = cloud_events.structured(json.dumps(REQUIRED).encode()[:-1] + b', "data": 1.50000000000000000001}')
    assert event.payload == b"1.50000000000000000001"


@given(st.text(min_size=1))
def test_an_attribute_survives_its_header(value: str) -> None:
    """Whatever characters it has, the header is one printable ASCII word, from which it can be read again."""
    header = structured(subject=value).fields["ce-subject"]
    assert header.isascii()
    assert header.isprintable()
    assert " " not in header
    assert unquote(header) == value


def test_extensions_are_attributes_too() -> None:
    """Integers and booleans in their canonical form; null is absent."""
    event = structured(count=3, urgent=True, nothing=None)
    assert event.fields == HEADERS | {"ce-count": "3", "ce-urgent": "true"}


@pytest.mark.parametrize(
    ("members", "word"),
    [
        ({"id": ""}, "id"),
        ({"source": None}, "source"),
        ({"type": 1.5}, "type"),
        ({"specversion": "0.3"}, "1.0"),
        ({"time": "yesterday"}, "RFC 3339"),
        ({"time": "2026-02-30T00:00:00Z"}, "RFC 3339"),
        ({"subject": ""}, "subject"),
        ({"Upper": "x"}, "Upper"),
        ({"under_score": "x"}, "under_score"),
        ({"object": {}}, "object"),
        ({"data": 1, "data_base64": "AA=="}, "both"),
        ({"data_base64": "no base64!"}, "base64"),
        ({"data_base64": 5}, "data_base64"),
        ({"data": {"n": 1}, "datacontenttype": "text/plain"}, "data"),
    ],
)
def test_what_is_wrong_is_named(members: dict[str, Any], word: str) -> None:
    """400, with the attribute's name and what would be right."""
    with pytest.raises(CallError, match=word) as caught:
        structured(**members)
    assert caught.value.kind is ErrorType.BAD_REQUEST


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"1", b'{"id": "\xff"}', b"[" * 100_000])
def test_a_body_that_is_no_event(body: bytes) -> None:
    """Not JSON, or not an object: 400, never a crash."""
    with pytest.raises(CallError) as caught:
        cloud_events.structured(body)
    assert caught.value.kind is ErrorType.BAD_REQUEST


def test_a_batch_names_the_event_that_is_wrong() -> None:
    """Its number comes with the attribute's name."""
    good = json.dumps(REQUIRED)
    assert len(cloud_events.batch(f"[{good},{good}]".encode())) == 2
    with pytest.raises(CallError, match="event 1: id"):
        cloud_events.batch(f'[{good},{{"source": "x", "type": "y", "specversion": "1.0"}}]'.encode())


def test_binary_events_are_whole() -> None:
    """Any attribute makes it a CloudEvent, which needs the others; without one it is none."""
    cloud_events.check({"Content-Type": "text/plain", "x": "y"})
    cloud_events.check(HEADERS | {"ce-time": "2026-01-02T03:04:05.678+01:00"})
    for name in HEADERS:
        with pytest.raises(CallError, match=name):
            cloud_events.check({other: value for other, value in HEADERS.items() if other != name})


def test_identity_is_source_and_id() -> None:
    """By the specification these two tell events apart; something else has none."""
    assert cloud_events.identity(HEADERS) != cloud_events.identity(HEADERS | {"ce-id": "8"})
    assert cloud_events.identity(HEADERS) != cloud_events.identity(HEADERS | {"ce-source": "/x"})
    assert cloud_events.identity(HEADERS) == cloud_events.identity(HEADERS | {"ce-type": "x"})
    assert cloud_events.identity({}) == ""
