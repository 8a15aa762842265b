"""``/api/v1/instances``, a function's logs and the scaler's: what runs where, and what it says."""

import asyncio
from itertools import chain

import msgspec
from fastapi import APIRouter, Request, Response

from mayfly_chassis.bus import Bus
from mayfly_chassis.errors import BusError
from mayfly_chassis.mirror import Mirror
from mayfly_gateway import openapi, streaming
from mayfly_gateway.lines import Lines
from mayfly_gateway.translation import COMPONENT
from mayfly_proto import records, storage, subjects
from mayfly_proto.errors import CallError, ErrorType

routes = APIRouter(prefix="/api/v1", default_response_class=Response)

_NODE_TIMEOUT_S = 2.0  # a node that is slower than this is not waited for
_LINES = "Oldest first; one JSON object a line, or server-sent events."
_instances = msgspec.json.Decoder(list[records.InstanceRecord])


@routes.get("/instances", tags=["platform"], responses=openapi.answer(list[records.InstanceRecord], "By function."))
async def instances(request: Request, function: str | None = None) -> Response:
    bus: Bus = request.app.state.bus
    nodes: Mirror = request.app.state.nodes
    answers = await asyncio.gather(*(_instances_of(bus, node) for node, _ in nodes.items()))
    rows = [row for row in chain.from_iterable(answers) if function in (None, row.function)]
    rows.sort(key=lambda row: (row.function, row.version, row.node, row.instance))
    return Response(msgspec.json.encode(rows), media_type="application/json")


@routes.get("/functions/{name}/logs", tags=["functions"], responses=openapi.lines(records.LogLine, _LINES))
async def logs(name: str, request: Request, wanted: streaming.Wanted) -> Response:
    if name not in request.app.state.known:
        raise CallError(ErrorType.NOT_FOUND, f"no such function: {name}", component=COMPONENT)
    source = Lines(request.app.state.bus, storage.LOGS, subjects.logs_of(name))
    return await streaming.answer(source, wanted, request.app.state.stopping)


@routes.get("/scaler/log", tags=["platform"], responses=openapi.lines(records.Decision, _LINES))
async def decisions(request: Request, wanted: streaming.Wanted) -> Response:
    """What the scaler saw, what it decided, and why."""
    source = Lines(request.app.state.bus, storage.DECISIONS, subjects.DECISIONS)
    return await streaming.answer(source, wanted, request.app.state.stopping)


async def _instances_of(bus: Bus, node: str) -> list[records.InstanceRecord]:
    try:
        return _instances.decode((await bus.request(subjects.node_instances(node), timeout_s=_NODE_TIMEOUT_S)).payload)
    except (BusError, msgspec.MsgspecError):
        return []  # its lease has not ended yet, but it is gone
