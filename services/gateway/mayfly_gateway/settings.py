"""A function's settings as query parameters: ``?memory=256&timeout=5&env={"GREETING":"Hello"}``.

The names are those of `records.VersionSpec` on the wire, which are the user's own. Nothing is checked here: what is not
of the right type goes on as text, and the registry says what would be right.
"""

from collections.abc import Iterable
from typing import Any

import msgspec

from mayfly_proto import records
from mayfly_proto.errors import CallError, ErrorType

_NOT_SETTINGS = ("name", "version", "package", "created")

FIELDS = {
    field.encode_name: field.type
    for field in msgspec.structs.fields(records.VersionSpec)
    if field.encode_name not in _NOT_SETTINGS
}
_PLAIN = (str, int, float, bool, FIELDS["keep_alive"])  # that one is a number or a word


def from_query(pairs: Iterable[tuple[str, str]]) -> dict[str, Any] | None:
    """None when no setting is given: then what the package itself says is taken. Raises CallError (bad_request)."""
    return {name: _value(name, text) for name, text in pairs} or None


def parameters() -> list[dict[str, Any]]:
    """The same as OpenAPI parameters."""
    return [{"name": name, "in": "query", "schema": _schema(kind)} for name, kind in FIELDS.items()]


def _value(name: str, text: str) -> object:
    kind = FIELDS.get(name, str)
    try:
        if kind in _PLAIN:
            return msgspec.convert(text, kind, strict=False)
        return msgspec.json.decode(text)
    except msgspec.ValidationError:
        return text
    except msgspec.DecodeError:
        message = f"{name}={text[:100]!r}: must be JSON"
        raise CallError(ErrorType.BAD_REQUEST, message, component="gateway") from None


def _schema(kind: Any) -> dict[str, Any]:
    if kind in _PLAIN:
        return msgspec.json.schema(kind)
    return {"type": "string", "contentMediaType": "application/json"}
