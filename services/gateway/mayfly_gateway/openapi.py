"""What the management API's description says of bodies: worked out from the very structs that go over the wire."""

from typing import Any

import msgspec
from fastapi import FastAPI

from mayfly_proto.errors import ErrorBody

_REFERENCE = "#/components/schemas/{name}"

Documented = dict[int | str, dict[str, Any]]


def answer(kind: Any, description: str, *, status: int = 200) -> Documented:
    """FastAPI's ``responses`` of an operation that answers with JSON of that type."""
    return {status: _content(kind, description)}


def lines(kind: Any, description: str) -> Documented:
    """The same for a stream of such objects."""
    schema = schema_of(kind)
    return {
        200: {
            "description": description,
            "content": {"application/x-ndjson": {"schema": schema}, "text/event-stream": {"schema": schema}},
        }
    }


def errors() -> Documented:
    """What every operation may answer."""
    return {"default": _content(ErrorBody, "An error; its `type` is stable, its `message` is for people.")}


def schema_of(kind: Any) -> dict[str, Any]:
    (schema,), _ = msgspec.json.schema_components([kind], ref_template=_REFERENCE)
    return schema


def complete(application: FastAPI, *kinds: Any) -> None:
    """Put the schemas that `answer` and the others refer to into the application's description."""
    _, components = msgspec.json.schema_components([ErrorBody, *kinds], ref_template=_REFERENCE)
    application.openapi().setdefault("components", {}).setdefault("schemas", {}).update(components)


def _content(kind: Any, description: str) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema_of(kind)}}}
