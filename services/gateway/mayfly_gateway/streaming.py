"""Lines of a stream as an HTTP response: which are asked for, and in which form they go out."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Annotated, NamedTuple

from fastapi import Depends, Header, Query, Response
from fastapi.responses import StreamingResponse

from mayfly_gateway.lines import Line, Lines, parse_since
from mayfly_gateway.translation import COMPONENT
from mayfly_proto.errors import CallError, ErrorType


class _Wanted(NamedTuple):
    follow: bool
    since: str | None
    tail: int | None
    as_events: bool
    last_event_id: str


def _wanted(
    follow: Annotated[bool, Query(description="Go on with what comes.")] = False,
    since: Annotated[str | None, Query(description="90s, 10m, 2h, 7d, or a time (RFC 3339).")] = None,
    tail: Annotated[int | None, Query(ge=0, description="Only so many of the last lines.")] = None,
    accept: Annotated[str, Header()] = "",
    last_event_id: Annotated[str, Header()] = "",
) -> _Wanted:
    return _Wanted(follow, since, tail, "text/event-stream" in accept, last_event_id)


Wanted = Annotated[_Wanted, Depends(_wanted)]


async def answer(source: Lines, wanted: _Wanted, stopping: asyncio.Event) -> Response:
    """One JSON object a line, or server-sent events with ids that a browser comes back with.

    Raises CallError and `BusError`.
    """
    if wanted.last_event_id.isascii() and wanted.last_event_id.isdigit():
        start = int(wanted.last_event_id) + 1
    else:
        start = await source.first(_time(wanted.since), wanted.tail)
    pages = source.follow(start, stopping) if wanted.follow else _history(source, start)
    written = _written(pages, _events if wanted.as_events else _ndjson)
    kind = "text/event-stream" if wanted.as_events else "application/x-ndjson"
    return StreamingResponse(written, media_type=kind, headers={"Cache-Control": "no-store"})


def _time(since: str | None) -> datetime | None:
    try:
        return None if since is None else parse_since(since, datetime.now(UTC))
    except ValueError as error:
        raise CallError(ErrorType.BAD_REQUEST, str(error), component=COMPONENT) from None


async def _history(source: Lines, sequence: int) -> AsyncIterator[list[Line]]:
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
