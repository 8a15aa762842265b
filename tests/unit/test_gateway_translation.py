"""Headers between HTTP and NATS: what passes, what never does, and what a reply's status becomes."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mayfly_gateway import translation
from mayfly_gateway.translation import Field
from mayfly_proto import headers
from mayfly_proto.errors import CallError, ErrorType


def block(*fields: Field, route: str | None = None) -> dict[str, str]:
    return headers.parse(translation.request("POST", b"/function/hello?x=1", fields, route).block)


def lines(*fields: tuple[str, str]) -> bytes:
    return b"NATS/1.0\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields).encode() + b"\r\n"


def test_request_is_described_and_its_headers_pass() -> None:
    """A handler learns method, path with query, route, content type, and every header in lower case."""
    assert block(
        (b"host", b"x"), (b"content-type", b"text/plain"), (b"authorization", b"Basic eA=="), route="id=7"
    ) == {
        headers.HTTP: "POST /function/hello?x=1",
        headers.HTTP_ROUTE: "id=7",
        "host": "x",
        headers.CONTENT_TYPE: "text/plain",
        "authorization": "Basic eA==",
    }


def test_idempotency_key_becomes_the_platforms() -> None:
    """HTTP's own name for it is what a caller sets; it is neither lost nor passed under both names."""
    assert block((b"idempotency-key", b"k 1")) == {
        headers.HTTP: "POST /function/hello?x=1",
        headers.IDEMPOTENCY_KEY: "k 1",
    }
    for wrong in (b"", b"x" * 256):
        with pytest.raises(CallError, match="Idempotency-Key"):
            block((b"idempotency-key", wrong))


@pytest.mark.parametrize(
    "name",
    [
        "nats-expected-stream",
        "nats-ttl",
        "nats-service-error",
        "mayfly-http",
        "mayfly-http-route",
        "mayfly-http-status",
        "mayfly-probe",
        "mayfly-invocation",
        "connection",
        "transfer-encoding",
        "te",
        "upgrade",
        "expect",
        "content-length",
    ],
)
def test_caller_cannot_set_what_steers_the_platform(name: str) -> None:
    """Headers that Mayfly, NATS or the connection give a meaning to do not pass."""
    value = b"1"
    assert list(block((name.encode(), value))) == [headers.HTTP]


def test_timeout_passes_in_the_form_the_router_looks_for() -> None:
    """``mayfly-timeout-ms`` of any client reaches the router under its exact name, as a plain number."""
    request = translation.request("GET", b"/", [(b"mayfly-timeout-ms", b"0250")])
    assert (request.timeout_ms, headers.find(request.block, headers.TIMEOUT_MS.encode())) == (250, b"250")


@pytest.mark.parametrize("value", [b"", b"0", b"-5", b"1.5", b"soon", b"9" * 30])
def test_timeout_that_is_no_number_is_refused(value: bytes) -> None:
    """The router never has to parse nonsense; the caller learns what would be right."""
    with pytest.raises(CallError) as caught:
        translation.request("GET", b"/", [(b"mayfly-timeout-ms", value)])
    assert caught.value.kind is ErrorType.BAD_REQUEST


@given(st.lists(st.tuples(st.binary(), st.binary()), max_size=5), st.binary(max_size=40))
def test_no_bytes_whatever_forge_a_header(fields: list[Field], path: bytes) -> None:
    """A line break in a name, a value or the path is an error, never a second header."""
    try:
        raw = translation.request("GET", path, fields).block
    except (CallError, ValueError):
        return
    allowed = sum(name not in (b"content-length", b"mayfly-timeout-ms") for name, _ in fields) + 1
    assert raw.count(b"\n") - 2 <= allowed
    assert raw.startswith(headers.PROLOGUE)
    assert raw.endswith(b"\r\n\r\n")


def test_headers_as_large_as_a_payload_are_refused() -> None:
    """Headers count against NATS's limit too: a frame above it would close the gateway's connection for good."""
    with pytest.raises(CallError) as caught:
        translation.request("GET", b"/", [(b"x", b"y" * translation.HEADER_LIMIT)])
    assert caught.value.kind is ErrorType.TOO_LARGE


def test_result_is_200_and_json_unless_it_says_otherwise() -> None:
    """A plain result has no content type on the wire, which means JSON."""
    plain = translation.response(lines((headers.INVOCATION, "i1"), (headers.START, "cold")), b"{}")
    assert plain == (
        200,
        [
            (b"mayfly-invocation", b"i1"),
            (b"mayfly-start", b"cold"),
            (b"content-type", b"application/json"),
            (b"content-length", b"2"),
        ],
        b"{}",
    )
    assert (b"content-type", b"text/plain") in translation.response(lines(("Content-Type", "text/plain")), b"x").fields


def test_handler_decides_status_and_headers_and_may_repeat_one() -> None:
    """``statusCode`` and ``headers`` of a handler are the response's; two cookies are two headers."""
    status, fields, body = translation.response(
        lines((headers.HTTP_STATUS, "302"), ("Location", "/x"), ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")), b""
    )
    assert (status, body) == (302, b"")
    assert [value for name, value in fields if name == b"set-cookie"] == [b"a=1", b"b=2"]
    assert not any(name.startswith(b"mayfly-http") for name, _ in fields)


@pytest.mark.parametrize("status", ["204", "304"])
def test_status_without_body_has_none(status: str) -> None:
    """A body after 204 or 304 would be taken for the next response."""
    answer = translation.response(lines((headers.HTTP_STATUS, status)), b"surplus")
    assert (answer.body, [name for name, _ in answer.fields]) == (b"", [])


@pytest.mark.parametrize("status", ["0", "99", "101", "600", "abc", "", "-1", "²", "9" * 20])
def test_impossible_status_is_a_bad_result(status: str) -> None:
    """A handler cannot break the connection by a status that HTTP does not have."""
    answer = translation.response(lines((headers.HTTP_STATUS, status)), b"x")
    assert answer.status == 500
    assert json.loads(answer.body)["error"]["type"] == "bad_result"


@pytest.mark.parametrize("name", ["Connection", "Transfer-Encoding", "Content-Length", "Keep-Alive", "Date", "Trailer"])
def test_handler_cannot_steer_the_connection(name: str) -> None:
    """How a response is framed is the gateway's business."""
    answer = translation.response(lines((headers.HTTP_STATUS, "200"), (name, "7")), b"xyz")
    assert (name.lower().encode(), b"7") not in answer.fields
    assert (b"content-length", b"3") in answer.fields


@given(st.binary(max_size=200))
def test_no_block_whatever_makes_an_invalid_response(raw: bytes) -> None:
    """An instance may send any bytes as headers; none of them splits or breaks the response."""
    answer = translation.response(b"NATS/1.0\r\n" + raw + b"\r\n\r\n", b"")
    for name, value in answer.fields:
        assert name
        assert not set(name) & set(b"\r\n\0 :")
        assert not set(value) & set(b"\r\n\0")


def test_hostile_block_costs_no_more_than_its_length() -> None:
    """A header of a hundred thousand spaces is refused in no time, not in quadratic time."""
    block = b"NATS/1.0\r\nx:" + b" " * 200_000 + b"\0\r\n\r\n"
    assert translation.response(block, b"").status == 200


def test_error_keeps_code_body_and_retry_after() -> None:
    """What the platform says on NATS is what it says on HTTP."""
    error = CallError(ErrorType.THROTTLED, "queue is full", component="router", invocation="i9", retry_after_s=2)
    answer = translation.response(error.headers(), error.body())
    assert (answer.status, answer.body) == (429, error.body())
    assert dict(answer.fields) == {
        b"content-type": b"application/json",
        b"mayfly-invocation": b"i9",
        b"retry-after": b"2",
        b"content-length": b"%d" % len(error.body()),
    }
