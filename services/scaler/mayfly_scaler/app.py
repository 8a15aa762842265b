"""A scaler, put together: start and stop on one page.

All scalers listen and learn; one, the leader, acts (see `leader`). Calls need none of them: without a scaler the last
targets stay as they are.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

from mayfly_chassis.service import Chassis
from mayfly_scaler import decisions
from mayfly_scaler.catalog import Catalog
from mayfly_scaler.config import ScalerConfig
from mayfly_scaler.decisions import Decisions
from mayfly_scaler.functions.functions import Functions
from mayfly_scaler.leader import Leader
from mayfly_scaler.nodes.level import NodeLevel
from mayfly_scaler.reports import Reports


class Part(Protocol):
    """A level that is scaled. Its background tasks ask `Leader.leading` before every act."""

    async def start(self) -> None:
        """Loaded and listening on return; its tasks are in the background."""

    def lead(self) -> None:
        """This scaler acts from now on."""

    async def stop(self) -> None:
        """Called while this scaler may still lead: keep what was learnt."""


@asynccontextmanager
async def app(chassis: Chassis, config: ScalerConfig) -> AsyncIterator[None]:
    scaler = Scaler(chassis, config)
    await scaler.start()
    try:
        yield
    finally:
        await scaler.stop()


class Scaler:
    def __init__(self, chassis: Chassis, config: ScalerConfig) -> None:
        bus = chassis.bus
        self._chassis = chassis
        self._reports = Reports(bus)
        self._catalog = Catalog(bus)
        self.leader = Leader(bus, config.name, self._lead)
        self._decisions = Decisions(bus, self.leader)
        nodes = NodeLevel(chassis, config, self._reports, self._catalog, self.leader, self._decisions)
        functions = Functions(chassis, self._reports, self._catalog, self.leader, self._decisions, nodes.can_grow)
        self._parts: list[Part] = [functions, nodes]
        self._keeping: asyncio.Task[None]

    async def start(self) -> None:
        await self._catalog.start()
        await self._reports.start()
        for part in self._parts:
            await part.start()
        self._keeping = self._chassis.background("leader", self.leader.keep())

    async def stop(self) -> None:
        for part in self._parts:
            await part.stop()
        self._keeping.cancel()
        await asyncio.wait({self._keeping})
        await self.leader.resign()
        await self._reports.stop()
        await self._catalog.stop()

    def _lead(self) -> None:
        self._decisions.say(decisions.LEADER, "lead", why="the lease was free")
        for part in self._parts:
            part.lead()
