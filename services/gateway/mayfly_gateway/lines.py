"""What lies in a stream, one JSON object a message: log lines, or the scaler's decisions. History, and what follows.

All of it is read from the stream, in the order of their sequences, by batched direct get: no consumer, nothing lost
and nothing twice between history and what follows, also over a restart of NATS. A subscription to the same subjects is
only the bell that says when to look again.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import structlog

from mayfly_chassis.bus import Bus
from mayfly_chassis.errors import BusError
from mayfly_chassis.history import History

PAGE_LINES = 500
SETTLE_S = 0.02  # between bell and look: the line may not be stored yet, and more are likely to come
LOOK_ANYWAY_S = 1.0

_DURATION = re.compile(r"([0-9]{1,9})([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}

_log = structlog.get_logger()


class Line(NamedTuple):
    sequence: int
    json: bytes


def parse_since(text: str, now: datetime) -> datetime:
    """``90s``, ``10m``, ``2h``, ``7d`` before now, or a time (RFC 3339). Raises ValueError, which says so."""
    if (duration := _DURATION.fullmatch(text)) is not None:
        return now - min(timedelta(seconds=int(duration[1]) * _SECONDS[duration[2]]), timedelta(days=36500))
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            f"since={text!r}: must be like 90s, 10m, 2h, 7d, or a time like 2026-01-31T12:00:00Z"
        ) from None
    return at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)


class Lines:
    """Those of one stream that ``subject`` (with wildcards) stands for. Methods raise `BusError`."""

    def __init__(self, bus: Bus, stream: str, subject: str) -> None:
        self._bus = bus
        self._filter = subject
        self._lines = History(bus, stream, subject)

    async def first(self, since: datetime | None, tail: int | None) -> int:
        """The sequence to read from."""
        newest = await self._lines.newest()
        oldest = await self._lines.first({"seq": 1} if since is None else {"start_time": since.isoformat()})
        if newest is None or oldest is None or tail == 0:
            return newest.sequence + 1 if newest is not None else 1
        if tail is None:
            return oldest.message.sequence
        return await self._lines.back(tail, oldest, newest.sequence)

    async def page(self, sequence: int) -> list[Line]:
        """The next lines from this sequence on; none: there are no more now."""
        return await self._lines.page(sequence, PAGE_LINES, lambda message: Line(message.sequence, message.payload))

    async def follow(self, sequence: int, stopping: asyncio.Event) -> AsyncIterator[list[Line]]:
        """Pages from this sequence on, for ever; an empty one now and then, when there is nothing to tell."""
        bell = asyncio.Event()
        subscription = await self._bus.subscribe(self._filter, lambda *_: bell.set())
        try:
            while not stopping.is_set():
                try:
                    lines = await self.page(sequence)
                except BusError as error:
                    _log.warning("lines.interrupted", subject=self._filter, error=str(error))
                    lines = []
                if lines:
                    sequence = lines[-1].sequence + 1
                yield lines
                if len(lines) < PAGE_LINES:
                    await self._rest(bell)
        finally:
            await subscription.unsubscribe()

    async def _rest(self, bell: asyncio.Event) -> None:
        try:
            async with asyncio.timeout(LOOK_ANYWAY_S):
                await bell.wait()
        except TimeoutError:
            return
        bell.clear()
        await asyncio.sleep(SETTLE_S)
