"""The node's entry in KV ``nodes``: proof of life, and of which life.

The epoch grows with every start of a worker of this name, by compare-and-set: of two workers with one name the newer
holds the key, and the older learns of it at once from the bucket's feed, or at its next renewal, and ends.
"""

import asyncio
import time
from collections.abc import Callable

import msgspec
import structlog

from mayfly_chassis.bus import Bus
from mayfly_chassis.errors import BusError, KeyExists, WrongRevision
from mayfly_chassis.kv import Bucket
from mayfly_proto import records, storage, subjects
from mayfly_proto.records import NodeLease

TTL_S = 10
RENEW_S = 3.0
_RETRY_S = 0.5


class Superseded(Exception):
    """Another worker of this name has started after this one."""


class Lease:
    def __init__(self, bus: Bus, record: NodeLease, log: structlog.typing.FilteringBoundLogger) -> None:
        self._bus = bus
        self._bucket = Bucket(bus, storage.NODES)
        self._record = record
        self._log = log
        self._revision = 0
        self._soon = asyncio.Event()
        self.superseded = False  # the name is another worker's

    @property
    def epoch(self) -> int:
        return self._record.epoch

    async def choose_epoch(self) -> int:
        """Above that of every worker of this name before."""
        entry = await self._bucket.get(self._record.node)
        self._revision = entry.revision if entry else 0
        epoch = max(_epoch(entry.value) + 1 if entry else 0, time.time_ns() // 1_000_000)
        self._record = msgspec.structs.replace(self._record, epoch=epoch)
        return epoch

    async def take(self) -> None:
        """Take the name over, whoever has it: from now on the node is there for others. Raises `Superseded`."""
        feed = subjects.kv_feed(storage.NODES) + self._record.node
        await self._bus.subscribe(feed, self._changed)
        await self._renew()

    def _changed(self, _subject: bytes, _reply: bytes, _headers: bytes | None, value: bytes) -> None:
        if _epoch(value) > self.epoch:
            self._soon.set()

    def renew_soon(self) -> None:
        """The connection is another one."""
        self._soon.set()

    def drain(self, draining: bool) -> None:
        """Say at once whether this node takes new instances."""
        self._record = msgspec.structs.replace(self._record, draining=draining)
        self._soon.set()

    async def release(self) -> None:
        """Take the entry away, unless it is a newer worker's."""
        if not self.superseded:
            await self._renew()
            await self._bucket.delete(self._record.node)

    async def keep(self, restore: Callable[[], None]) -> None:
        """Renew for ever. Raises `Superseded`.

        ``restore`` is called when the lease had ended in between: others may have tidied up behind this node.
        """
        pause = RENEW_S
        while True:
            try:
                async with asyncio.timeout(pause):
                    await self._soon.wait()
            except TimeoutError:
                pass
            self._soon.clear()
            try:
                if await self._renew():
                    restore()
                pause = RENEW_S
            except BusError as error:
                self._log.warning("lease.not_renewed", error=str(error))
                pause = _RETRY_S

    async def _renew(self) -> bool:
        """True when it had ended in between."""
        self._record = msgspec.structs.replace(self._record, client=self._bus.identity)
        try:
            await self._store(self._revision)
        except (WrongRevision, KeyExists):
            return await self._take_back()
        return False

    async def _take_back(self) -> bool:
        """Another revision than ours: a newer worker's, or none (the lease ended while this node was cut off)."""
        entry = await self._bucket.get(self._record.node)
        if entry is not None and _epoch(entry.value) > self.epoch:
            self.superseded = True
            raise Superseded(f"a newer worker is called {self._record.node!r}: this one ends")
        await self._store(entry.revision if entry else 0)
        return entry is None

    async def _store(self, revision: int) -> None:
        value = records.encode(self._record)
        if revision:
            self._revision = await self._bucket.update(self._record.node, value, revision, ttl_s=TTL_S)
        else:
            self._revision = await self._bucket.create(self._record.node, value, ttl_s=TTL_S)


def _epoch(raw: bytes) -> int:
    try:
        return records.decode(raw, NodeLease).epoch
    except msgspec.MsgspecError:
        return 0
