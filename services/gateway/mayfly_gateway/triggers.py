"""What makes functions run: pause and resume it, and when schedules do next."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from mayfly_gateway import openapi
from mayfly_gateway.registry import Asked
from mayfly_proto import api

routes = APIRouter(prefix="/api/v1", tags=["triggers"], default_response_class=Response)


@routes.post(
    "/functions/{name}/pause",
    responses=openapi.answer(api.PauseReply, "Its events and durable calls wait; calls by function name go on."),
)
async def pause(name: str, registry: Asked) -> Response:
    return _json(await registry.ask(api.PAUSE, api.PauseRequest(name=name)))


@routes.post("/functions/{name}/resume", responses=openapi.answer(api.PauseReply, "What has waited runs."))
async def resume(name: str, registry: Asked) -> Response:
    return _json(await registry.ask(api.RESUME, api.PauseRequest(name=name)))


@routes.get("/schedules", responses=openapi.answer(list[api.Schedule], "By function, with the next times of each."))
async def schedules(
    registry: Asked, function: str | None = None, count: Annotated[int, Query(ge=1, le=100)] = 3
) -> Response:
    wanted = api.SchedulesRequest(function=function, count=count)
    return _json(await registry.ask(api.LIST, wanted, resource=api.SCHEDULE))


def _json(raw: bytes) -> Response:
    return Response(raw, media_type="application/json")
