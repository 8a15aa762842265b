"""CloudEvents 1.0 as HTTP brings them, and as they are published: attributes as ``ce-*`` headers, the data as payload.

* binary: the headers are there already, and only checked;
* structured (``application/cloudevents+json``): one JSON object that holds attributes and data;
* batched (``application/cloudevents-batch+json``): a list of those.

https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md, and bindings/http-protocol-binding.md beside it.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import quote

import msgspec

from mayfly_gateway import times
from mayfly_gateway.translation import COMPONENT
from mayfly_proto import headers
from mayfly_proto.errors import CallError, ErrorType

STRUCTURED = "application/cloudevents+json"
BATCHED = "application/cloudevents-batch+json"

_REQUIRED = ("id", "source", "type", "specversion")
_NOT_EMPTY = (*_REQUIRED, "subject", "dataschema", "datacontenttype")
_VERSION = "1.0"
_NAME = re.compile(r"[a-z0-9]+")
_PRINTABLE = "".join(map(chr, range(0x21, 0x7F))).translate({ord('"'): None, ord("%"): None})
_JSON = "application/json"

_Object = dict[str, msgspec.Raw]


class Event(NamedTuple):
    fields: dict[str, str]  # headers
    payload: bytes


def check(fields: Mapping[str, str]) -> None:
    """Headers of a binary event; those of something that is no CloudEvent are fine.

    Raises CallError (bad_request), as all here do.
    """
    prefix = headers.CLOUD_EVENT
    attributes = {name.removeprefix(prefix): value for name, value in fields.items() if name.startswith(prefix)}
    if attributes:
        _check(attributes, prefix)


def structured(body: bytes) -> Event:
    return _event(_decoded(body, _Object), "")


def batch(body: bytes) -> list[Event]:
    return [_event(each, f"event {index}: ") for index, each in enumerate(_decoded(body, list[_Object]))]


def identity(fields: Mapping[str, str]) -> str:
    """What is different for different events of one subject, by the specification; "" where it is no CloudEvent."""
    source, number = fields.get(f"{headers.CLOUD_EVENT}source"), fields.get(f"{headers.CLOUD_EVENT}id")
    return f"{source} {number}" if source and number else ""


def _event(members: _Object, where: str) -> Event:
    attributes = {}
    for name, raw in members.items():
        if name in ("data", "data_base64") or bytes(raw) == b"null":
            continue
        if not _NAME.fullmatch(name):
            raise _bad(f"{where}{name[:40]!r} is no attribute's name: lower case letters and digits")
        attributes[name] = _text(raw, where + name)
    _check(attributes, where)
    kind = attributes.pop("datacontenttype", None)
    payload, implied = _data(members, kind, where)
    fields = {f"{headers.CLOUD_EVENT}{name}": quote(value, safe=_PRINTABLE) for name, value in attributes.items()}
    kind = kind or implied
    return Event(fields | ({headers.CONTENT_TYPE: kind} if kind else {}), payload)


def _data(members: _Object, kind: str | None, where: str) -> tuple[bytes, str | None]:
    """The payload, and its type where the event does not say it."""
    data, encoded = members.get("data"), members.get("data_base64")
    if data is not None and encoded is not None:
        raise _bad(f"{where}data and data_base64 cannot both be there")
    if encoded is not None:
        try:
            return base64.b64decode(_string(encoded, f"{where}data_base64"), validate=True), None
        except (binascii.Error, ValueError):
            raise _bad(f"{where}data_base64: is not base64") from None
    if data is None:
        return b"", None
    if kind is None or _is_json(kind):
        return bytes(data), _JSON
    return _string(data, f"{where}data").encode(), None


def _check(attributes: Mapping[str, str], where: str) -> None:
    missing = [f"{where}{name}" for name in _REQUIRED if name not in attributes]
    if missing:
        raise _bad(f"a CloudEvent without {', '.join(missing)}")
    for name in _NOT_EMPTY:
        if attributes.get(name) == "":
            raise _bad(f"{where}{name}: must not be empty")
    if attributes["specversion"] != _VERSION:
        raise _bad(f"{where}specversion {attributes['specversion'][:20]!r}: must be {_VERSION}")
    if "time" in attributes and not times.is_time(attributes["time"]):
        raise _bad(f"{where}time {attributes['time'][:40]!r}: must be {times.TIME_RULE}")


def _text(raw: msgspec.Raw, name: str) -> str:
    """An attribute's value in its canonical form."""
    value = _decoded(raw, object)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int):
        return str(value)
    raise _bad(f"{name}: must be a string, an integer or a boolean")


def _string(raw: msgspec.Raw, name: str) -> str:
    value = _decoded(raw, object)
    if not isinstance(value, str):
        raise _bad(f"{name}: must be a string")
    return value


def _is_json(kind: str) -> bool:
    media_type = kind.partition(";")[0].strip().lower()
    return media_type.endswith(("/json", "+json"))


def _decoded(raw: bytes | msgspec.Raw, kind: Any) -> Any:
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _bad(f"the body is not what its content type says: {error}") from None


def _bad(message: str) -> CallError:
    return CallError(ErrorType.BAD_REQUEST, message, component=COMPONENT)
