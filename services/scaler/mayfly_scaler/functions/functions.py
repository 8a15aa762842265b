"""Targets, windows and shares of functions: what the leader wants of each, from what is reported and learnt.

Every scaler listens and works out; the leader writes. A second's work is what has changed in it: functions that are
busy or have just been, and windows of those with new pauses, some at a time.
"""

import asyncio
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import islice

import structlog

from mayfly_chassis.service import Chassis
from mayfly_proto.records import FunctionTarget
from mayfly_scaler.catalog import Catalog
from mayfly_scaler.decisions import Decisions
from mayfly_scaler.functions.announcing import Announcing
from mayfly_scaler.functions.function import Function
from mayfly_scaler.functions.learning import Learning
from mayfly_scaler.functions.memory import Memory
from mayfly_scaler.functions.metrics import Metrics
from mayfly_scaler.functions.observed import Observed
from mayfly_scaler.functions.sharing import Sharing
from mayfly_scaler.functions.targets import Targets, differs
from mayfly_scaler.leader import Leader
from mayfly_scaler.reports import Reports
from mayfly_scaler.told import News

TICK_S = 1.0
SURVEY_TICKS = 5
WINDOWS_AT_ONCE = 200  # worked out in one tick: 14 ms
WRITES_AT_ONCE = 64

_log = structlog.get_logger()


class Functions:
    def __init__(
        self,
        chassis: Chassis,
        reports: Reports,
        catalog: Catalog,
        leader: Leader,
        decisions: Decisions,
        can_grow: Callable[[], bool],
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        bus = chassis.bus
        self._chassis = chassis
        self._reports = reports
        self._catalog = catalog
        self._leader = leader
        self._functions: dict[str, Function] = {}
        self._restored: dict[str, Learning] = {}
        self._awake: set[str] = set()  # functions to look at
        self._due: dict[str, None] = {}  # functions whose windows are to be worked out, first come first served
        self._orphans: set[str] = set()  # names that no function had at the last look
        self._metrics = Metrics(bus, reports.clock)
        self._observed = Observed(reports, catalog, self._metrics, wall)
        self._memory = Memory(bus)
        self._targets = Targets(bus, lambda: leader.leading)
        self._announcing = Announcing(decisions)
        self._sharing = Sharing(bus, leader, reports, catalog, self._targets, self._functions, can_grow)
        reports.on_router.append(self._heard)

    async def start(self) -> None:
        self._restored = await self._memory.restore()
        await self._targets.start()
        await self._metrics.start()
        for name in [name for name in self._restored if name in self._catalog]:
            self._function(name)  # the catalog is new to us, so its windows are worked out with the first looks
        self._chassis.background("functions", self._run())

    def lead(self) -> None:
        self._awake.update(self._functions, self._targets.functions())

    async def stop(self) -> None:
        self._sharing.stop()
        if self._leader.leading:
            await self._memory.keep_all(self._functions.values())
        await self._targets.stop()

    def _heard(self, news: News) -> None:
        now, known = self._reports.clock(), self._functions
        for name, load in news.functions.items():
            function = known.get(name)
            if function is None:
                if name not in self._catalog:
                    continue
                function = self._function(name)
            if function.heard(load, now, news.elapsed_s) and name not in self._due and function.learning.due:
                self._due[name] = None
            if load.in_flight and function.has_floor:
                self._awake.add(name)

    def _function(self, name: str) -> Function:
        function = self._functions.get(name)
        if function is None:
            restored = self._restored.pop(name, None)
            function = self._functions[name] = Function(name, restored or Learning())
            function.resume(self._targets[name], self._reports.clock())
        return function

    async def _run(self) -> None:
        tick = 0
        while True:
            await asyncio.sleep(TICK_S)
            self._note_changes()
            if tick % SURVEY_TICKS == 0:
                self._survey()
                await self._forget_the_gone()
            self._work_out()
            self._sharing.share()
            await self._write(dict(self._wanted()))
            if self._leader.leading:
                self._announcing.say(self._reports.clock())
                await self._memory.keep(self._functions.values(), self._reports.clock())
            tick += 1

    def _note_changes(self) -> None:
        changed, self._catalog.changed = self._catalog.changed, set()
        if changed:
            self._observed.reread(changed)
            self._due |= dict.fromkeys(changed & self._functions.keys())
        self._awake |= self._targets.changed | self._observed.restless
        self._targets.changed.clear()

    def _survey(self) -> None:
        self._observed.survey()
        for name, usage in self._observed.usage.items():
            if function := self._functions.get(name):
                function.learning.private_mb = usage.private_mb / usage.instances
                if function.learning.due:
                    self._due[name] = None

    def _work_out(self) -> None:
        for name in list(islice(self._due, WINDOWS_AT_ONCE)):
            del self._due[name]
            spec, function = self._catalog.current(name), self._functions.get(name)
            if spec is not None and function is not None:
                function.learning.work_out(pre_warm=spec.pre_warm)
                self._awake.add(name)

    def _wanted(self) -> Iterator[tuple[str, FunctionTarget]]:
        """What is to be written. Functions whose owner says nothing are left as they are."""
        now = self._reports.clock()
        for name in list(self._awake):
            spec, load = self._catalog.current(name), self._reports.function(name)
            if spec is None:
                self._awake.discard(name)
                continue
            if load is None:
                continue
            function = self._function(name)
            target = function.target(spec, load, self._observed.figures(spec), now)
            if differs(self._targets[name], target):
                yield name, target
            elif function.settled(now):
                self._awake.discard(name)

    async def _write(self, wanted: dict[str, FunctionTarget]) -> None:
        names = list(wanted) if self._leader.leading else []
        for start in range(0, len(names), WRITES_AT_ONCE):
            chunk = names[start : start + WRITES_AT_ONCE]
            await asyncio.gather(*(self._write_one(self._functions[name], wanted[name]) for name in chunk))

    async def _write_one(self, function: Function, target: FunctionTarget) -> None:
        before = self._targets[function.name]
        if await self._targets.write(function.name, target):
            self._announcing.changed(function, before, target)

    async def _forget_the_gone(self) -> None:
        """Names that no function had at two looks in a row."""
        known = self._functions.keys() | self._memory.known | set(self._targets.functions())
        orphans = {name for name in known if name not in self._catalog}
        for name in orphans & self._orphans:
            self._functions.pop(name, None)
            self._announcing.forget(name)
            if self._leader.leading:
                await self._targets.forget(name)
                await self._memory.forget(name)
        self._orphans = orphans
