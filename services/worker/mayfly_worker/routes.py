"""The Route Cache as this node writes it: which of its instances are ready.

Each key has at most one write under way; when it is through, the latest state is written if it differs by then. A
burst of a hundred instances that become ready costs a few writes, and an older state never overtakes a newer one.
"""

import asyncio

import structlog

from mayfly_chassis.errors import BusError
from mayfly_chassis.kv import Bucket
from mayfly_proto import records, storage
from mayfly_worker.group import Group

_RETRY_S = 0.25
_UNKNOWN = b""  # what the server has may be anything


class Routes:
    def __init__(
        self,
        bucket: Bucket,
        node: str,
        epoch: int,
        tasks: asyncio.TaskGroup,
        log: structlog.typing.FilteringBoundLogger,
    ) -> None:
        self._bucket = bucket
        self._node = node
        self._epoch = epoch
        self._tasks = tasks
        self._log = log
        self._wanted: dict[str, bytes] = {}  # no entry: no route
        self._stored: dict[str, bytes] = {}
        self._writers: dict[str, asyncio.Task[None]] = {}
        self._closed = False

    async def purge(self) -> None:
        """Take away what an earlier worker of this name has left."""
        for key in await self._bucket.load(f"{self._node}."):
            await self._bucket.delete(key)

    def update(self, group: Group) -> None:
        key = storage.route_key(self._node, group.version, group.function)
        ids = group.in_service()
        if ids:
            route = records.Route(epoch=self._epoch, instances=ids, slots=len(ids) * group.concurrency)
            self._wanted[key] = records.encode(route)
        else:
            self._wanted.pop(key, None)
        self._write_soon(key)

    def restore(self) -> None:
        """Write every key again: the server may have lost what it had."""
        for key in self._wanted:
            self._stored[key] = _UNKNOWN
        for key in list(self._stored):
            self._write_soon(key)

    async def settled(self) -> None:
        """Everything is written."""
        while self._writers:
            await asyncio.wait(self._writers.values())

    def _write_soon(self, key: str) -> None:
        if not self._closed and key not in self._writers and self._wanted.get(key) != self._stored.get(key):
            self._writers[key] = self._tasks.create_task(self._write(key), name=f"route.{key}")

    async def _write(self, key: str) -> None:
        try:
            while (value := self._wanted.get(key)) != self._stored.get(key):
                # Whatever comes of this write, until it is confirmed nobody knows what is stored.
                self._stored[key] = _UNKNOWN
                try:
                    await (self._bucket.delete(key) if value is None else self._bucket.put(key, value))
                except BusError as error:
                    self._log.warning("route.not_written", key=key, error=str(error))
                    await asyncio.sleep(_RETRY_S)
                    continue
                self._note(key, value)
        finally:
            del self._writers[key]

    def _note(self, key: str, value: bytes | None) -> None:
        if value is None:
            del self._stored[key]
        else:
            self._stored[key] = value

    def close(self) -> None:
        """Write no more: the keys are another worker's."""
        self._closed = True
        for writer in self._writers.values():
            writer.cancel()
