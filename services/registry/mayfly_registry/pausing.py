"""Pausing a function: its events, durable calls and ticks wait in their streams until it is resumed.

The record says so first, by compare-and-set; consumers follow. What is left undone when the registry dies in between
is done by `upkeep`.
"""

import asyncio

import msgspec
import structlog

from mayfly_proto import api
from mayfly_proto.records import FunctionRecord, VersionSpec
from mayfly_registry import draft, wanted
from mayfly_registry.errors import NotFound
from mayfly_registry.store import Store
from mayfly_registry.wiring import Wiring

_log = structlog.get_logger()


class Pausing:
    """Each verb raises `Refusal` or `BusError`, and may be repeated."""

    def __init__(self, store: Store, wiring: Wiring) -> None:
        self._store = store
        self._wiring = wiring

    async def pause(self, request: api.PauseRequest) -> api.PauseReply:
        return await self._change(request.name, paused=True)

    async def resume(self, request: api.PauseRequest) -> api.PauseReply:
        return await self._change(request.name, paused=False)

    async def _change(self, name: str, *, paused: bool) -> api.PauseReply:
        record = await self._write(draft.check_name(name), paused=paused)
        waited = 0 if paused else await self._waiting(await self._store.spec(name, record.current))
        while True:
            spec = await self._store.spec(name, record.current)
            await self._wiring.prepare(spec, paused=record.paused)
            await self._wiring.pause(spec, paused=record.paused)
            now = await self._store.record(name)
            if (now.paused, now.current) == (record.paused, record.current):
                break
            record = now  # somebody else has changed it meanwhile
        waiting = await self._waiting(spec) if paused else waited
        _log.info("function.paused" if paused else "function.resumed", function=name, waiting=waiting)
        return api.PauseReply(name=name, paused=record.paused, waiting=waiting)

    async def _waiting(self, spec: VersionSpec) -> int:
        """Events and durable calls."""
        consumers = wanted.consumers(spec)
        found = await asyncio.gather(*(self._wiring.consumers.find(*consumer.key) for consumer in consumers))
        return sum(info.pending + info.unacknowledged for info in found if info is not None)

    async def _write(self, name: str, *, paused: bool) -> FunctionRecord:
        while True:
            found = await self._store.find(name)
            if found is None:
                raise NotFound(f"there is no function {name}")
            record = msgspec.structs.replace(found.record, paused=paused)
            if record == found.record or await self._store.write_record(record, found):
                return record
