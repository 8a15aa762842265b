"""What is published for a request that is not waited for: times, message ids, and who may set which header."""

import pytest

from mayfly_gateway import messages, shown
from mayfly_gateway.cloud_events import Event
from mayfly_proto import api, headers
from mayfly_proto.errors import CallError, ErrorType


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (headers.AT, "2026-01-02T03:04:05Z"),
        (headers.AT, "2026-01-02T03:04:05.123456789+01:00"),
        (headers.DELAY, "0"),
        (headers.DELAY, "1.5"),
        (headers.DELAY, "31622400"),
    ],
)
def test_a_time_passes_as_it_is(name: str, value: str) -> None:
    """The router reads it; the name gets the case that NATS compares by."""
    assert messages.later([(b"host", b"x"), (name.lower().encode(), value.encode())]) == {name: value}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (headers.AT, ""),
        (headers.AT, "2026-01-02"),
        (headers.AT, "2026-01-02T03:04:05"),
        (headers.AT, "2026-01-02T25:04:05Z"),
        (headers.AT, "2026-01-02T03:04:05Z\u00b2"),
        (headers.DELAY, ""),
        (headers.DELAY, "-1"),
        (headers.DELAY, "1e3"),
        (headers.DELAY, "inf"),
        (headers.DELAY, "1_000"),
        (headers.DELAY, "31622401"),
    ],
)
def test_a_senseless_time_is_refused_by_name(name: str, value: str) -> None:
    """A call for a time that nobody can read would run at once, or never."""
    with pytest.raises(CallError, match=name) as caught:
        messages.later([(name.lower().encode(), value.encode())])
    assert caught.value.kind is ErrorType.BAD_REQUEST


def test_platform_headers_cannot_be_set_by_a_publisher() -> None:
    """Nor are credentials kept where every function could read them."""
    names = ("mayfly-depth", "mayfly-subject", "nats-schedule", "nats-ttl", "authorization", "cookie", "connection")
    found = messages.given([(name.encode(), b"x") for name in names] + [(b"x-a", b"1"), (b"content-length", b"3")])
    assert found == ({"x-a": "1"}, 3, "")


def test_message_ids() -> None:
    """The client's own wins, numbered in a batch; a CloudEvent has the same one again, on the same subject only."""
    told = Event({"ce-source": "/s", "ce-id": "1"}, b"")
    assert messages.event_id("event.a", told, "m", None) == "m"
    assert [messages.event_id("event.a", told, "m", index) for index in (0, 1)] == ["m.0", "m.1"]
    assert messages.event_id("event.a", told, "", 0) == messages.event_id("event.a", told, "", None)
    assert messages.event_id("event.a", told, "", None) != messages.event_id("event.b", told, "", None)
    assert messages.event_id("event.a", Event({}, b""), "", None) == ""
    assert messages.call_id("hello", [(b"nats-msg-id", b"m")]) == "hello.m"
    assert messages.call_id("hello", []) == ""


def test_headers_of_an_event_have_a_limit() -> None:
    """As those of a call."""
    with pytest.raises(CallError) as caught:
        messages.event_block(Event({"x": "x" * 40_000}, b""), "m")
    assert caught.value.kind is ErrorType.TOO_LARGE


@pytest.mark.parametrize(
    ("indices", "text"), [([], ""), ([0], " (0)"), ([0, 1, 2], " (0-2)"), ([0, 2, 3, 7], " (0, 2-3, 7)")]
)
def test_numbers_are_listed_by_spans(indices: list[int], text: str) -> None:
    """A thousand stored events are one span."""
    assert messages.listing(indices) == text


@pytest.mark.parametrize(
    ("kind", "payload", "value", "encoding"),
    [
        ("", b'{"n": 1}', b'{"n": 1}', ""),
        ("", b"text", b'"text"', ""),
        ("", b"\xff", b'"/w=="', "base64"),
        ("application/x-www-form-urlencoded", b"a=1", b'"a=1"', ""),
        ("text/plain; charset=utf-8", b"1", b'"1"', ""),
        ("text/plain", b"\xff", b'"/w=="', "base64"),
        ("image/png", b"1", b'"MQ=="', "base64"),
        ("application/x+json", b"[1.50]", b"[1.50]", ""),
    ],
)
def test_a_payload_in_json(kind: str, payload: bytes, value: bytes, encoding: str) -> None:
    """JSON as it was written, text as text, anything else as base64: always valid JSON."""
    letter = api.DeadLetter(
        sequence=1,
        function="hello",
        invocation="E1",
        subject="event.a",
        reason="raised",
        attempts=1,
        failed_at="",
        size=len(payload),
        headers={"content-type": kind} if kind else {},
        payload=payload,
    )
    found = shown.dead_letter(letter)
    assert found.payload is not None
    assert (bytes(found.payload), found.encoding) == (value, encoding)
