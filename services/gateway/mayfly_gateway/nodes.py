"""``/api/v1/nodes`` and ``/api/v1/load``: what nodes and functions have to do, and nodes that are to be empty."""

from typing import Annotated

import msgspec
from fastapi import APIRouter, Body, Request, Response
from pydantic import BaseModel, Field

from mayfly_chassis.bus import Bus
from mayfly_chassis.kv import Bucket
from mayfly_chassis.mirror import Mirror
from mayfly_gateway import fleet, openapi, traffic
from mayfly_gateway.registry import Asked
from mayfly_gateway.reports import Reports
from mayfly_proto import api, records, storage

routes = APIRouter(prefix="/api/v1", tags=["platform"], default_response_class=Response)


class Why(BaseModel):
    why: str = Field("", max_length=200, description="For the record.")


@routes.get("/nodes", responses=openapi.answer(list[fleet.Node], "By name."))
async def nodes(request: Request) -> Response:
    leases: Mirror = request.app.state.nodes
    reports: Reports = request.app.state.reports
    alive = [records.decode(value, records.NodeLease) for _, value in leases.items()]
    return _json(fleet.rows(alive, await _targets(request.app.state.bus), reports.nodes()))


@routes.post(
    "/nodes/{node}/drain",
    responses=openapi.answer(api.NodeReply, "It takes no new instances; what runs there ends. 404: no such node."),
)
async def drain(node: str, registry: Asked, body: Annotated[Why | None, Body()] = None) -> Response:
    wanted = api.NodeRequest(node=node, why=body.why if body else "")
    return Response(await registry.ask(api.DRAIN, wanted, resource=api.NODE), media_type="application/json")


@routes.post("/nodes/{node}/undrain", responses=openapi.answer(api.NodeReply, "It takes new instances again."))
async def undrain(node: str, registry: Asked, body: Annotated[Why | None, Body()] = None) -> Response:
    wanted = api.NodeRequest(node=node, why=body.why if body else "")
    return Response(await registry.ask(api.UNDRAIN, wanted, resource=api.NODE), media_type="application/json")


@routes.get("/load", responses=openapi.answer(list[traffic.FunctionTraffic], "Busiest first, from the last reports."))
async def load(request: Request) -> Response:
    reports: Reports = request.app.state.reports
    return _json(traffic.rows((report for report, _ in reports.nodes().values()), reports.routers()))


async def _targets(bus: Bus) -> dict[str, records.NodeTarget]:
    """Those that can be read: no other drains anything."""
    targets = {}
    for key, entry in (await Bucket(bus, storage.TARGETS).load(storage.NODE_TARGETS)).items():
        if (target := records.readable(entry.value, records.NodeTarget)) is not None:
            targets[key.removeprefix(storage.NODE_TARGETS)] = target
    return targets


def _json(rows: object) -> Response:
    return Response(msgspec.json.encode(rows), media_type="application/json")
