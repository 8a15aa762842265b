"""Headers from HTTP to NATS and back: an HTTP request becomes a call's header block, a reply becomes a response.

Both sides are strangers to each other: a caller can set no header that Mayfly gives a meaning to (`Mayfly-Timeout-Ms`
apart, and an `Idempotency-Key`, which becomes Mayfly's), and a handler none that steers the connection. Names arrive in
lower case (ASGI), so they never collide with Mayfly's own, which NATS compares by case; a handler reads them in any
case.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

from mayfly_proto import headers
from mayfly_proto.errors import CallError, ErrorType

COMPONENT = "gateway"

HEADER_LIMIT = 32 * 1024  # bytes of a header block: a third of what `payload_limit` leaves for it and the frame's head
KEY_LIMIT = 255  # bytes of an idempotency key

Field = tuple[bytes, bytes]


class Response(NamedTuple):
    status: int
    fields: list[Field]
    body: bytes


class Request(NamedTuple):
    """What a request's headers come to."""

    block: bytes
    length: int | None  # of the body, where the client says it
    timeout_ms: int | None  # how long the caller would wait


_HOP_BY_HOP = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    )
)
_OWN = (b"mayfly-", b"nats-")
_CONTENT_TYPE = headers.CONTENT_TYPE.lower().encode()
_CONTENT_LENGTH = b"content-length"
_TIMEOUT = headers.TIMEOUT_MS.lower().encode()
_IDEMPOTENCY_KEY = b"idempotency-key"
_HTTP_STATUS = headers.HTTP_STATUS.lower().encode()
_ERROR_CODE = headers.SERVICE_ERROR_CODE.lower().encode()
_JSON: Field = (_CONTENT_TYPE, b"application/json")

_PROLOGUE = headers.PROLOGUE + f"{headers.HTTP}: ".encode()
_CONTENT_TYPE_LINE = f"{headers.CONTENT_TYPE}: ".encode()

_IDEMPOTENCY_LINE = f"{headers.IDEMPOTENCY_KEY}: ".encode()

NOT_FOR_FUNCTIONS = _HOP_BY_HOP | {b"expect"}
_NOT_FOR_CLIENTS = _HOP_BY_HOP | {_CONTENT_LENGTH, b"date"}  # the server writes these itself

# One header line; a line that has anything else in it (a bare CR or LF, a control character) is not a header.
# Possessive, so that a hostile block costs no more than its length.
_LINE = re.compile(rb"^([!#$%&'*+\-.^_`|~0-9A-Za-z]++):[ \t]*+([\t -~\x80-\xff]*+)\r$", re.MULTILINE)


def request(
    method: str, target: bytes, fields: Iterable[Field], route: str | None = None, caller: str | None = None
) -> Request:
    """
    :param target: path and query as they came, percent-encoded
    :param route: path parameters of an http trigger, as a query string
    :param caller: who it is, where the router is to tell callers apart
    :raises CallError: a header that is given to Mayfly itself is wrong, or all of them are too large
    """
    lines = [_PROLOGUE + method.encode() + b" " + target]
    if route is not None:
        lines.append(f"{headers.HTTP_ROUTE}: {route}".encode())
    if caller is not None:
        lines.append(f"{headers.CALLER}: {caller}".encode())
    length = timeout_ms = None
    for name, value in fields:
        if name == _CONTENT_TYPE:
            lines.append(_CONTENT_TYPE_LINE + value)
        elif name == _CONTENT_LENGTH:
            length = int(value)
        elif name == _TIMEOUT:
            timeout_ms = _timeout_ms(value)
        elif name == _IDEMPOTENCY_KEY:
            lines.append(_IDEMPOTENCY_LINE + _key(value))
        elif name not in NOT_FOR_FUNCTIONS and not name.startswith(_OWN):
            lines.append(name + b": " + value)
    if timeout_ms is not None:
        lines.append(f"{headers.TIMEOUT_MS}: {timeout_ms}".encode())
    block = b"\r\n".join(lines) + b"\r\n\r\n"
    if block.count(b"\n") != len(lines) + 2 or block.count(b"\r") != len(lines) + 2:
        raise CallError(ErrorType.BAD_REQUEST, "a header holds a line break", component=COMPONENT)
    return Request(limited(block), length, timeout_ms)


def limited(block: bytes) -> bytes:
    """The block. Raises CallError (too_large)."""
    if len(block) > HEADER_LIMIT:
        message = f"the request's headers are {len(block)} bytes; at most {HEADER_LIMIT} are taken"
        raise CallError(ErrorType.TOO_LARGE, message, component=COMPONENT)
    return block


def response(block: bytes | None, payload: bytes) -> Response:
    """What the caller gets: a result, a handler's own HTTP response, or an error, which is JSON already."""
    status, typed, fields = 200, False, []
    for name, value in _LINE.findall(block or b""):
        name = name.lower()
        if name in (_HTTP_STATUS, _ERROR_CODE):
            status = int(value) if value.isdigit() else 0
        elif name not in _NOT_FOR_CLIENTS and not name.startswith(b"nats-"):
            typed = typed or name == _CONTENT_TYPE
            fields.append((name, value))
    if not 200 <= status <= 599:
        message = "the function answered with an HTTP status that is not between 200 and 599"
        return failure(CallError(ErrorType.BAD_RESULT, message, component=COMPONENT))
    if status in (204, 304):
        return Response(status, fields, b"")
    if not typed:
        fields.append(_JSON)
    fields.append((_CONTENT_LENGTH, b"%d" % len(payload)))
    return Response(status, fields, payload)


def failure(error: CallError, *extra: Field) -> Response:
    """An error of the gateway's own, in the form that every error has."""
    answer = response(error.headers(), error.body())
    answer.fields.extend(extra)
    return answer


def _key(value: bytes) -> bytes:
    if not 0 < len(value) <= KEY_LIMIT:
        message = f"Idempotency-Key: must be 1 to {KEY_LIMIT} characters, and is {len(value)}"
        raise CallError(ErrorType.BAD_REQUEST, message, component=COMPONENT)
    return value


def _timeout_ms(value: bytes) -> int:
    if not value.isdigit() or len(value) > 9 or int(value) == 0:
        message = f"{headers.TIMEOUT_MS} {value.decode('latin-1')!r}: must be a number of milliseconds from 1"
        raise CallError(ErrorType.BAD_REQUEST, message, component=COMPONENT)
    return int(value)
