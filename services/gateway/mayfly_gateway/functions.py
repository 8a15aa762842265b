"""``/api/v1/functions``: the registry's verbs over HTTP."""

from typing import Annotated, Any
from urllib.parse import quote

import msgspec
from fastapi import APIRouter, Body, Query, Request, Response
from pydantic import BaseModel, Field

from mayfly_gateway import openapi, settings
from mayfly_gateway.asgi import read_body
from mayfly_gateway.registry import PACKAGE_LIMIT, Asked
from mayfly_gateway.translation import COMPONENT
from mayfly_proto import api, names
from mayfly_proto.errors import CallError, ErrorType

routes = APIRouter(prefix="/api/v1/functions", tags=["functions"], default_response_class=Response)

_MEDIA_TYPES = {"zip": "application/zip", "py": "text/x-python"}


Version = Annotated[int | None, Query(ge=1, description="Another version than the current one.")]


class DeployBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A deploy without an upload: exactly one of ``source`` and ``object``."""

    source: str | None = None  # the text of one .py file
    object: str | None = None  # "BUCKET/NAME" in NATS
    filename: str = ""
    settings: dict[str, Any] | None = None


class Rollback(BaseModel):
    version: int | None = Field(None, ge=1, description="None: the highest below the current one.")


_DEPLOY: dict[str, Any] = {
    "responses": openapi.answer(api.DeployReply, "A new version, which is current and can be called.", status=201)
    | openapi.answer(api.DeployReply, "Nothing changed: package and settings are the current version's."),
    "openapi_extra": {
        "parameters": settings.parameters(),
        "requestBody": {
            "required": True,
            "description": f"A ZIP or one .py file, as it is (at most {PACKAGE_LIMIT >> 20} MB; "
            "`curl --data-binary @fn.zip`), or JSON.",
            "content": {
                "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
                "application/json": {"schema": openapi.schema_of(DeployBody)},
            },
        },
    },
}


@routes.get("", responses=openapi.answer(list[api.FunctionSummary], "By name."))
async def list_functions(registry: Asked) -> Response:
    return _json(await registry.ask(api.LIST))


@routes.post("/{name}", status_code=201, **_DEPLOY)
@routes.put("/{name}", status_code=201, **_DEPLOY)
async def deploy(
    name: str,
    registry: Asked,
    request: Request,
    filename: Annotated[str, Query(description="As the file is called where it comes from: hello.py.")] = "",
) -> Response:
    """The new version is current, and can be called, when this answers. Settings of an upload are query parameters."""
    try:
        names.check_function(name)
    except names.InvalidName as error:
        raise _bad(str(error)) from None
    length = int(request.headers.get("content-length", -1))
    known_length = length if length >= 0 else None
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type == "application/json":
        raw = await read_body(request.receive, known_length, request.app.state.body_limit)
        given = _decoded(raw)
        reply = await registry.ask(
            api.DEPLOY,
            api.DeployRequest(
                name=name, source=given.source, object=given.object, filename=given.filename, settings=given.settings
            ),
        )
    elif media_type == "multipart/form-data":
        raise _bad("send the file itself, not a form: curl --data-binary @fn.zip")
    else:
        query = [(key, value) for key, value in request.query_params.multi_items() if key != "filename"]
        wanted = api.DeployRequest(name=name, filename=filename, settings=settings.from_query(query))
        reply = await registry.deploy_upload(wanted, request.stream(), known_length)
    return _json(reply, 200 if api.decode(reply, api.DeployReply).unchanged else 201)


@routes.get("/{name}", responses=openapi.answer(api.FunctionDescription, "All of one version, with its code."))
async def describe(name: str, registry: Asked, version: Version = None) -> Response:
    return _json(await registry.ask(api.DESCRIBE, api.FunctionRequest(name=name, version=version)))


@routes.patch("/{name}", responses=openapi.answer(api.DeployReply, "The new version, on the same package."))
async def configure(
    name: str,
    registry: Asked,
    changes: Annotated[dict[str, Any], Body(description="Settings that change; null: back to the default.")],
) -> Response:
    return _json(await registry.ask(api.CONFIGURE, api.ConfigureRequest(name=name, settings=changes)))


@routes.delete("/{name}", responses=openapi.answer(api.DeleteReply, "The function is gone, with all its versions."))
async def delete(name: str, registry: Asked) -> Response:
    return _json(await registry.ask(api.DELETE, api.DeleteRequest(name=name)))


@routes.get("/{name}/versions", responses=openapi.answer(list[api.VersionSummary], "Newest first."))
async def versions(name: str, registry: Asked) -> Response:
    return _json(await registry.ask(api.VERSIONS, api.FunctionRequest(name=name)))


@routes.post("/{name}/rollback", responses=openapi.answer(api.DeployReply, "The version that is current now."))
async def rollback(name: str, registry: Asked, to: Annotated[Rollback | None, Body()] = None) -> Response:
    wanted = api.RollbackRequest(name=name, version=None if to is None else to.version)
    return _json(await registry.ask(api.ROLLBACK, wanted))


@routes.get(
    "/{name}/code",
    responses={
        200: {
            "description": "The package exactly as it was uploaded.",
            "content": {kind: {"schema": {"type": "string", "format": "binary"}} for kind in _MEDIA_TYPES.values()},
        }
    },
)
async def code(name: str, registry: Asked, version: Version = None) -> Response:
    found, content = await registry.code(api.FunctionRequest(name=name, version=version))
    disposition = f"attachment; filename*=UTF-8''{quote(found.filename, safe='')}"
    return Response(content, media_type=_MEDIA_TYPES[found.format], headers={"Content-Disposition": disposition})


def _json(raw: bytes, status: int = 200) -> Response:
    return Response(raw, status_code=status, media_type="application/json")


def _decoded(raw: bytes) -> DeployBody:
    try:
        return msgspec.json.decode(raw, type=DeployBody)
    except msgspec.MsgspecError as error:
        raise _bad(f"the body is not what deploy takes: {error}") from None


def _bad(message: str) -> CallError:
    return CallError(ErrorType.BAD_REQUEST, message, component=COMPONENT)
