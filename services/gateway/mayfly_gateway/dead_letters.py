"""``/api/v1/dlq``: what failed for good."""

from typing import Annotated

import msgspec
from fastapi import APIRouter, Body, Query, Response
from pydantic import BaseModel, Field

from mayfly_gateway import openapi, shown
from mayfly_gateway.registry import Asked
from mayfly_proto import api

routes = APIRouter(prefix="/api/v1/dlq", tags=["dead letters"], default_response_class=Response)


class Named(BaseModel):
    sequences: list[int] | None = Field(None, description="Only these; else all of the function.")


@routes.get("", responses=openapi.answer(list[shown.DeadLetter], "Newest first, without headers and payloads."))
async def page(
    registry: Asked,
    function: str | None = None,
    before: Annotated[int | None, Query(ge=1, description="Older than this sequence: the next page.")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Response:
    wanted = api.DeadLettersRequest(function=function, before=before, limit=limit)
    found = api.decode(await registry.ask(api.LIST, wanted, resource=api.DEAD_LETTERS), list[api.DeadLetter])
    return _json([shown.dead_letter(letter) for letter in found])


@routes.get("/{sequence}", responses=openapi.answer(shown.DeadLetter, "One, with the publisher's headers and payload."))
async def show(sequence: int, registry: Asked) -> Response:
    wanted = api.DeadLetterRequest(sequence=sequence)
    raw = await registry.ask(api.SHOW, wanted, resource=api.DEAD_LETTERS)
    return _json(shown.dead_letter(api.decode(raw, api.DeadLetter)))


@routes.post(
    "/{function}/redrive",
    responses=openapi.answer(api.DeadLettersChanged, "So many go to the function again, as first attempts."),
)
async def redrive(function: str, registry: Asked, named: Annotated[Named | None, Body()] = None) -> Response:
    wanted = api.DeadLettersChange(function=function, sequences=None if named is None else named.sequences)
    raw = await registry.ask(api.REDRIVE, wanted, resource=api.DEAD_LETTERS)
    return Response(raw, media_type="application/json")


@routes.delete("/{function}", responses=openapi.answer(api.DeadLettersChanged, "So many are gone."))
async def purge(
    function: str,
    registry: Asked,
    sequence: Annotated[list[int] | None, Query(description="Only these; else all of the function.")] = None,
) -> Response:
    wanted = api.DeadLettersChange(function=function, sequences=sequence)
    raw = await registry.ask(api.PURGE, wanted, resource=api.DEAD_LETTERS)
    return Response(raw, media_type="application/json")


def _json(rows: object) -> Response:
    return Response(msgspec.json.encode(rows), media_type="application/json")
