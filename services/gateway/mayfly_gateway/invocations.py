"""``/api/v1/invocations``: what became of durable calls."""

import asyncio
from typing import Annotated

import msgspec
from fastapi import APIRouter, Query, Request, Response

from mayfly_chassis import outcomes
from mayfly_chassis.bus import Bus
from mayfly_gateway import openapi, shown
from mayfly_gateway.registry import Asked
from mayfly_proto import api

routes = APIRouter(prefix="/api/v1/invocations", tags=["invocations"], default_response_class=Response)

LONGEST_WAIT_S = 600.0

Wait = Annotated[
    float, Query(ge=0, le=LONGEST_WAIT_S, description="Seconds to wait until there is nothing more to come.")
]
_ANSWER = openapi.answer(shown.Invocation, "What is known of a durable call. Its result is kept for a day.")


@routes.get("/{id}", responses=_ANSWER)
async def get(id: str, registry: Asked, request: Request, wait: Wait = 0.0) -> Response:
    bus: Bus = request.app.state.bus
    stopping: asyncio.Event = request.app.state.stopping

    async def ask() -> api.Invocation:
        raw = await registry.ask(api.GET, api.InvocationRequest(id=id), resource=api.INVOCATION)
        return api.decode(raw, api.Invocation)

    known = await ask()  # before anything is subscribed to: an id that is none is refused here
    if wait:
        known = await outcomes.wait(bus, known.id, ask, wait, stopped=stopping.is_set)
    return _json(await outcomes.complete(bus, known))


@routes.delete("/{id}", responses=openapi.answer(shown.Invocation, "It will not run. 409 when it has started."))
async def cancel(id: str, registry: Asked) -> Response:
    raw = await registry.ask(api.CANCEL, api.InvocationRequest(id=id), resource=api.INVOCATION)
    return _json(api.decode(raw, api.Invocation))


def _json(known: api.Invocation) -> Response:
    return Response(msgspec.json.encode(shown.invocation(known)), media_type="application/json")
