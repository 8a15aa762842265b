"""``/api/v1/instances``, ``/api/v1/nodes`` and a function's logs: what runs where, and what it says."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from itertools import chain
from typing import Annotated

import msgspec
from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import StreamingResponse

from mayfly_chassis.bus import Bus
from mayfly_chassis.errors import BusError
from mayfly_chassis.mirror import Mirror
from mayfly_gateway import openapi
from mayfly_gateway.log_lines import Line, LogLines, parse_since
from mayfly_gateway.translation import COMPONENT
from mayfly_proto import records, subjects
from mayfly_proto.errors import CallError, ErrorType

routes = APIRouter(prefix="/api/v1", default_response_class=Response)

_NODE_TIMEOUT_S = 2.0  # a node that is slower than this is not waited for
_instances = msgspec.json.Decoder(list[records.InstanceRecord])


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """One row of ``mayfly nodes``."""

    node: str
    cores: int
    memory_mb: int
    draining: bool
    isolation: str  # the levels it gives, separated by commas
    started: str
    version: str
    epoch: int


@routes.get("/instances", tags=["platform"], responses=openapi.answer(list[records.InstanceRecord], "By function."))
async def instances(request: Request, function: str | None = None) -> Response:
    bus: Bus = request.app.state.bus
    nodes: Mirror = request.app.state.nodes
    answers = await asyncio.gather(*(_instances_of(bus, node) for node, _ in nodes.items()))
    rows = [row for row in chain.from_iterable(answers) if function in (None, row.function)]
    return _json(sorted(rows, key=lambda row: (row.function, row.version, row.node, row.instance)))


@routes.get("/nodes", tags=["platform"], responses=openapi.answer(list[Node], "By name."))
async def nodes(request: Request) -> Response:
    leases: Mirror = request.app.state.nodes
    rows = [_node(records.decode(value, records.NodeLease)) for _, value in leases.items()]
    return _json(sorted(rows, key=lambda row: row.node))


@routes.get(
    "/functions/{name}/logs",
    tags=["functions"],
    responses=openapi.lines(records.LogLine, "Oldest first; one JSON object a line, or server-sent events."),
)
async def logs(
    name: str,
    request: Request,
    follow: Annotated[bool, Query(description="Go on with what comes.")] = False,
    since: Annotated[str | None, Query(description="90s, 10m, 2h, 7d, or a time (RFC 3339).")] = None,
    tail: Annotated[int | None, Query(ge=0, description="Only so many of the last lines.")] = None,
    accept: Annotated[str, Header()] = "",
    last_event_id: Annotated[str, Header()] = "",
) -> Response:
    if name not in request.app.state.known:
        raise CallError(ErrorType.NOT_FOUND, f"no such function: {name}", component=COMPONENT)
    source = LogLines(request.app.state.bus, name)
    if last_event_id.isascii() and last_event_id.isdigit():
        start = int(last_event_id) + 1
    else:
        start = await source.first(_time(since), tail)
    lines = source.follow(start, request.app.state.stopping) if follow else _history(source, start)
    as_events = "text/event-stream" in accept
    written = _events if as_events else _ndjson
    kind = "text/event-stream" if as_events else "application/x-ndjson"
    return StreamingResponse(_written(lines, written), media_type=kind, headers={"Cache-Control": "no-store"})


async def _instances_of(bus: Bus, node: str) -> list[records.InstanceRecord]:
    try:
        return _instances.decode((await bus.request(subjects.node_instances(node), timeout_s=_NODE_TIMEOUT_S)).payload)
    except (BusError, msgspec.MsgspecError):
        return []  # its lease has not ended yet, but it is gone


def _node(lease: records.NodeLease) -> Node:
    return Node(
        node=lease.node,
        cores=lease.cores,
        memory_mb=lease.memory_mb,
        draining=lease.draining,
        isolation=", ".join(lease.isolation),
        started=lease.started,
        version=lease.version,
        epoch=lease.epoch,
    )


def _time(since: str | None) -> datetime | None:
    try:
        return None if since is None else parse_since(since, datetime.now(UTC))
    except ValueError as error:
        raise CallError(ErrorType.BAD_REQUEST, str(error), component=COMPONENT) from None


async def _history(source: LogLines, sequence: int) -> AsyncIterator[list[Line]]:
    while lines := await source.page(sequence):
        yield lines
        sequence = lines[-1].sequence + 1


async def _written(pages: AsyncIterator[list[Line]], written: Callable[[list[Line]], bytes]) -> AsyncIterator[bytes]:
    async for lines in pages:
        if text := written(lines):
            yield text


def _ndjson(lines: list[Line]) -> bytes:
    return b"".join(line.json + b"\n" for line in lines)


def _events(lines: list[Line]) -> bytes:
    """An empty page becomes a comment, which tells both sides that the other is still there."""
    return b"".join(b"id: %d\ndata: %b\n\n" % line for line in lines) or b":\n\n"


def _json(rows: object) -> Response:
    return Response(msgspec.json.encode(rows), media_type="application/json")
