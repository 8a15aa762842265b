"""A function's log lines as they lie in the stream LOGS: history, and what comes after it.

All lines are read from the stream, in the order of their sequences, by batched direct get: no consumer, nothing lost
and nothing twice between history and what follows, also over a restart of NATS. A subscription to the same subjects is
only the bell that says when to look again.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import structlog

from mayfly_chassis.bus import Bus
from mayfly_chassis.errors import BusError, JetStreamError, NoResponders, RequestTimeout
from mayfly_proto import headers, storage, subjects

PAGE_LINES = 500
PAGE_TIMEOUT_S = 5.0
SETTLE_S = 0.02  # between bell and look: the line may not be stored yet, and more are likely to come
LOOK_ANYWAY_S = 1.0

_DURATION = re.compile(r"([0-9]{1,9})([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}

_log = structlog.get_logger()


class Line(NamedTuple):
    sequence: int
    json: bytes  # records.LogLine


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


class _Place(NamedTuple):
    sequence: int
    left: int  # lines from there on


class LogLines:
    """One function's. Methods raise `BusError`."""

    def __init__(self, bus: Bus, function: str) -> None:
        self._bus = bus
        self._filter = subjects.logs_of(function)
        self._direct_get = subjects.direct_get(storage.LOGS)

    async def first(self, since: datetime | None, tail: int | None) -> int:
        """The sequence to read from."""
        newest = await self._ask({"last_by_subj": self._filter})
        start: dict[str, object] = {"seq": 1} if since is None else {"start_time": since.isoformat()}
        oldest = await self._peek(start)
        if newest is None or oldest is None or tail == 0:
            return newest.sequence + 1 if newest is not None else 1
        if tail is None or oldest.left <= tail:
            return oldest.sequence
        # The highest sequence from which on there are still as many as asked for.
        low, high = oldest.sequence, newest.sequence
        while low < high:
            middle = (low + high + 1) // 2
            there = await self._peek({"seq": middle})
            if there is not None and there.left >= tail:
                low = middle
            else:
                high = middle - 1
        return low

    async def page(self, sequence: int) -> list[Line]:
        """The next lines from this sequence on; none: there are no more now."""
        lines: list[Line] = []
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def received(_subject: bytes, _reply: bytes, raw: bytes | None, payload: bytes) -> None:
            status = headers.status(raw)
            if status is None:
                lines.append(Line(_number(raw, b"Nats-Sequence"), payload))
            elif ended.done():
                return
            elif status == "503":
                ended.set_exception(NoResponders(f"there is no stream {storage.LOGS}"))
            else:  # 204: end of the batch; 404: nothing there
                ended.set_result(None)

        inbox = self._bus.new_inbox()
        subscription = await self._bus.subscribe(inbox, received)
        request = {"seq": sequence, "next_by_subj": self._filter, "batch": PAGE_LINES}
        try:
            self._bus.publish(self._direct_get, json.dumps(request).encode(), reply=inbox)
            async with asyncio.timeout(PAGE_TIMEOUT_S):
                await ended
        except TimeoutError:
            raise RequestTimeout(f"{storage.LOGS}: no page in {PAGE_TIMEOUT_S} s") from None
        finally:
            await subscription.unsubscribe()
        return lines

    async def follow(self, sequence: int, stopping: asyncio.Event) -> AsyncIterator[list[Line]]:
        """Pages from this sequence on, for ever; an empty one now and then, when there is nothing to tell."""
        bell = asyncio.Event()
        subscription = await self._bus.subscribe(self._filter, lambda *_: bell.set())
        try:
            while not stopping.is_set():
                try:
                    lines = await self.page(sequence)
                except BusError as error:
                    _log.warning("logs.interrupted", error=str(error))
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

    async def _peek(self, start: dict[str, object]) -> "_Place | None":
        """The first line from there on."""
        return await self._ask({**start, "next_by_subj": self._filter, "batch": 1})

    async def _ask(self, request: dict[str, object]) -> "_Place | None":
        reply = await self._bus.request(self._direct_get, json.dumps(request).encode(), timeout_s=PAGE_TIMEOUT_S)
        status = headers.status(reply.headers)
        if status == "404":
            return None
        if status is not None:
            raise JetStreamError(f"direct get from {storage.LOGS}: {(reply.headers or b'')[9:100]!r}")
        return _Place(_number(reply.headers, b"Nats-Sequence"), _number(reply.headers, b"Nats-Num-Pending") + 1)


def _number(raw: bytes | None, name: bytes) -> int:
    return int(headers.find(raw or b"", name) or 0)
