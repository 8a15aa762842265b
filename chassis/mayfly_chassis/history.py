"""What lies in a stream below one subject, read in the order of sequences by direct get: no consumer, nothing lost and
nothing twice, also over a restart of NATS."""

import asyncio
import json
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from mayfly_chassis.bus import Bus
from mayfly_chassis.errors import JetStreamError, NoResponders, RequestTimeout
from mayfly_chassis.jetstream import Stored, stored
from mayfly_proto import headers, subjects

T = TypeVar("T")

_TIMEOUT_S = 5.0


class Place(NamedTuple):
    message: Stored
    left: int  # messages from there on, this one too


class History:
    """Methods raise `NoResponders` when there is no such stream, `RequestTimeout`, `JetStreamError`."""

    def __init__(self, bus: Bus, stream: str, filter_subject: str = ">") -> None:
        self._bus = bus
        self._stream = stream
        self._filter = filter_subject
        self._direct_get = subjects.direct_get(stream)

    async def newest(self) -> Stored | None:
        found = await self._ask({"last_by_subj": self._filter})
        return None if found is None else found.message

    async def first(self, start: dict[str, object]) -> Place | None:
        """The first from ``{"seq": ...}`` or ``{"start_time": ...}`` on."""
        return await self._ask({**start, "next_by_subj": self._filter, "batch": 1})

    async def page(self, sequence: int, limit: int, keep: Callable[[Stored], T]) -> list[T]:
        """``keep`` of the next messages from this sequence on, at most ``limit``; none: there are no more now."""
        kept: list[T] = []
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def received(_subject: bytes, _reply: bytes, raw: bytes | None, payload: bytes) -> None:
            if ended.done():
                return
            status = headers.status(raw)
            if status is None and raw is not None:
                kept.append(keep(stored(raw, payload)))
            elif status == "503":
                ended.set_exception(NoResponders(f"there is no stream {self._stream}"))
            else:  # 204: end of the batch; 404: nothing there
                ended.set_result(None)

        inbox = self._bus.new_inbox()
        subscription = await self._bus.subscribe(inbox, received)
        request = {"seq": sequence, "next_by_subj": self._filter, "batch": limit}
        try:
            self._bus.publish(self._direct_get, json.dumps(request).encode(), reply=inbox)
            async with asyncio.timeout(_TIMEOUT_S):
                await ended
        except TimeoutError:
            raise RequestTimeout(f"{self._stream}: no page in {_TIMEOUT_S} s") from None
        finally:
            await subscription.unsubscribe()
        return kept

    async def back(self, count: int, oldest: Place, high: int, after: int = 0) -> int:
        """The highest sequence from which on there are ``count`` messages, and ``after`` more that are not wanted.

        It lies between ``oldest``, which is returned when there are fewer, and ``high``.
        """
        low = oldest.message.sequence
        if oldest.left <= count + after:
            return low
        while low < high:
            middle = (low + high + 1) // 2
            there = await self.first({"seq": middle})
            if there is not None and there.left >= count + after:
                low = middle
            else:
                high = middle - 1
        return low

    async def _ask(self, request: dict[str, object]) -> Place | None:
        reply = await self._bus.request(self._direct_get, json.dumps(request).encode(), timeout_s=_TIMEOUT_S)
        status = headers.status(reply.headers)
        if status == "404":
            return None
        if status is not None or reply.headers is None:
            raise JetStreamError(f"direct get from {self._stream}: {(reply.headers or b'')[9:100]!r}")
        pending = headers.find_last(reply.headers, b"Nats-Num-Pending")
        return Place(stored(reply.headers, reply.payload), int(pending or 0) + 1)
