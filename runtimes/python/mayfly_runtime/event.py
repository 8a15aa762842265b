"""Payloads to events and results to payloads."""

import base64
import json
import re
from collections.abc import Callable
from typing import Any, Protocol

from mayfly_runtime import cloudevents, wire
from mayfly_runtime.message import Message, came_by_http, find_header

_FORM = "application/x-www-form-urlencoded"  # curl -d says this of anything
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_RESERVED = ("mayfly-", "nats-")
_BINARY = (bytes, bytearray, memoryview)
_from_json: Callable[[str, int], tuple[Any, int]] = json.JSONDecoder().scan_once  # type: ignore[attr-defined]
_encoder = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False)


class BadRequest(Exception):
    """The payload is not what its content type says."""


class BadResult(Exception):
    """What the handler returned cannot be sent."""


def _make_to_json() -> Callable[[Any], str]:
    """As ``_encoder.encode``, which makes its C encoder anew for every call."""
    make: Any = getattr(json.encoder, "c_make_encoder", None)
    if make is None:
        return _encoder.encode
    containers: dict[int, object] = {}  # that it is in, to notice a circle; left over after an error
    chunks = make(containers, _encoder.default, json.encoder.encode_basestring, None, ":", ",", False, False, False)

    def to_json(value: Any) -> str:
        try:
            return "".join(chunks(value, 0))
        except BaseException:
            containers.clear()
            raise

    return to_json


_to_json = _make_to_json()


class Reader(Protocol):
    @property
    def payload(self) -> str:
        """How to read payloads: auto, json, text or bytes."""


def decode(function: Reader, headers: bytes | None, payload: bytes, message: Message) -> Any:
    """``message`` gets the attributes of an event that is in an envelope. Raises `BadRequest`."""
    if not payload:
        return None
    kind = function.payload
    content_type = ""
    if kind == "auto" and headers is not None:
        content_type = find_header(headers, b"Content-Type").partition(";")[0].strip().lower()
        kind = _kind(content_type)
    if kind == "auto":
        return _guess(payload)
    if kind == "bytes":
        return payload
    try:
        if kind == "envelope":
            data, message.envelope = cloudevents.unwrap(payload)
            return data
        text = payload.decode()
        return json.loads(text) if kind == "json" else text
    except ValueError as error:  # UnicodeDecodeError is one
        raise BadRequest(f"payload is not {content_type or kind}: {error}") from None


def read(content_type: str, payload: bytes) -> Any:
    """A function's result. Raises ValueError."""
    if not payload:
        return None
    kind = _kind(content_type.partition(";")[0].strip().lower())
    if kind == "auto":
        return _guess(payload)
    if kind == "bytes":
        return payload
    return payload.decode() if kind == "text" else json.loads(payload)


def _kind(content_type: str) -> str:
    if not content_type or content_type == _FORM:
        return "auto"
    if content_type == "application/json" or content_type.endswith("+json"):
        return "envelope" if content_type == cloudevents.CONTENT_TYPE else "json"
    return "text" if content_type.startswith("text/") else "bytes"


def _guess(payload: bytes) -> Any:
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        return payload
    try:
        value, end = _from_json(text, 0)
        if end == len(text):
            return value
    except (StopIteration, ValueError, RecursionError):
        pass  # space around it, or not JSON
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def encode(result: Any, raw_headers: bytes | None) -> tuple[int, bytes | None, bytes]:
    """Content type, further header lines, payload. Raises `BadResult`."""
    if isinstance(result, dict) and "statusCode" in result and came_by_http(raw_headers):
        return _encode_http(result)
    content_type, payload = encode_body(result)
    return content_type, None, payload


def encode_body(result: Any) -> tuple[int, bytes]:
    """Content type, payload. Raises `BadResult`."""
    if isinstance(result, str):
        return wire.TEXT, _utf8(result)
    if isinstance(result, _BINARY):
        return wire.BYTES, bytes(result)
    try:
        return wire.JSON, _to_json(result).encode()
    except UnicodeEncodeError as error:
        raise _bad_unicode(error) from None
    except (TypeError, ValueError, RecursionError) as error:
        raise BadResult(_describe(result, error)) from None


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise _bad_unicode(error) from None


def _bad_unicode(error: UnicodeEncodeError) -> BadResult:
    return BadResult(f"text is not valid Unicode: {error.reason} at {error.start}")


def _describe(result: Any, error: Exception) -> str:
    culprit = _find_culprit(result, "result", 0)
    return f"cannot serialise {culprit}" if culprit else f"cannot serialise the result: {error}"


def _find_culprit(value: Any, path: str, depth: int) -> str | None:
    """Where in the result something lies that JSON has no form for: ``result["when"] of type datetime.datetime``."""
    if depth > 50:
        return f"{path}: nested too deep or in a circle"
    if isinstance(value, dict):
        members = [(f"{path}[{key!r}]", member) for key, member in value.items()]
        odd = next((key for key in value if not isinstance(key, str | int | float | bool | None)), None)
        if odd is not None:
            return f"a key of type {_type_name(odd)} in {path}"
    elif isinstance(value, list | tuple):
        members = [(f"{path}[{index}]", member) for index, member in enumerate(value)]
    elif isinstance(value, float) and value - value != 0:
        return f"{path}: {value} is not a JSON number"
    else:
        plain = value is None or isinstance(value, str | int | float | bool)
        return None if plain else f"{path} of type {_type_name(value)}"
    return next((found for name, member in members if (found := _find_culprit(member, name, depth + 1))), None)


def _type_name(value: object) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _encode_http(result: dict[str, Any]) -> tuple[int, bytes, bytes]:
    """``{"statusCode", "headers", "body", "isBase64Encoded"}``, as AWS's proxy integration has it."""
    status = result["statusCode"]
    if not isinstance(status, int | str) or not str(status).isdecimal() or not 100 <= int(status) <= 599:
        raise BadResult(f"statusCode is {status!r}, not a number from 100 to 599")
    body = result.get("body")
    if result.get("isBase64Encoded"):
        try:
            body = base64.b64decode(body or "", validate=True)
        except (TypeError, ValueError) as error:
            raise BadResult(f"body is not base64: {error}") from None
    content_type, payload = (wire.TEXT, b"") if body is None else encode_body(body)
    lines = [f"Mayfly-Http-Status: {int(status)}\r\n"]
    for name, value in (result.get("headers") or {}).items():
        lines += [_header_line(name, item) for item in (value if isinstance(value, list | tuple) else [value])]
        if name.lower() == "content-type":
            content_type = wire.JSON  # the worker adds no content type of its own to this
    return content_type, "".join(lines).encode(), payload


def _header_line(name: object, value: object) -> str:
    if not isinstance(name, str) or not _TOKEN.fullmatch(name) or name.lower().startswith(_RESERVED):
        raise BadResult(f"{name!r} cannot be the name of a response header")
    text = str(value)
    if any(character in text for character in "\r\n\0"):
        raise BadResult(f"the value of response header {name} has a line break in it")
    return f"{name}: {text}\r\n"
