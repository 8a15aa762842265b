"""One node: its instances, its calls, and everything that is done to them but the warm path.

All of it is synchronous and runs on the loop, so each order is carried out as a whole; what takes time (starting an
instance, writing a route) is begun here and goes on elsewhere.
"""

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

import structlog

from mayfly_chassis.bus import Bus
from mayfly_proto import messages
from mayfly_proto.errors import CallError, ErrorType
from mayfly_proto.messages import Refusal
from mayfly_worker import replies
from mayfly_worker.asking import Asking
from mayfly_worker.calls import Calls
from mayfly_worker.complaints import Complaints
from mayfly_worker.cordon import Cordon, Leaving
from mayfly_worker.eviction import Pressure
from mayfly_worker.fence import Fence
from mayfly_worker.group import Instance
from mayfly_worker.holds import Hold
from mayfly_worker.invoke import Invoker
from mayfly_worker.logs import NodeLogs
from mayfly_worker.machine import Machine
from mayfly_worker.meter import Meter
from mayfly_worker.packages import Packages
from mayfly_worker.pool import Pool
from mayfly_worker.reports import Reports
from mayfly_worker.routes import Routes
from mayfly_worker.runtime import PythonRuntime
from mayfly_worker.services import Services

if TYPE_CHECKING:
    from mayfly_worker.keeper import Keeper

TIDY_S = 0.25
CROWDED = 0.9  # of the node's memory is promised: somebody may be waiting for room


class Node:
    """``announce(draining)`` tells everyone, when that changes."""

    def __init__(
        self,
        *,
        name: str,
        epoch: int,
        bus: Bus,
        pool: Pool,
        cordon: Cordon,
        machine: Machine,
        runtime: PythonRuntime,
        packages: Packages,
        routes: Routes,
        tasks: asyncio.TaskGroup,
        announce: Callable[[bool], None],
        now: Callable[[], float],
        log: structlog.typing.FilteringBoundLogger,
    ) -> None:
        self.name = name
        self.epoch = epoch
        self.pool = pool
        self.cordon = cordon
        self.runtime = runtime
        self.packages = packages
        self.routes = routes
        self.now = now
        self.log = log
        self.complain = Complaints(log)
        self.fence = Fence()
        self.calls = Calls(name, epoch)
        self.invoker = Invoker(bus, pool, self.calls, self.fence, self.complain)
        self.asking = Asking(self.calls, Services(bus), tasks, now, log)
        self.logs = NodeLogs(bus, now, self.complain)
        self.reports = Reports(name, epoch, bus, pool, self.calls, cordon, machine, now, self.complain)
        self.keepers: dict[str, Keeper] = {}
        self.starting: dict[str, Keeper] = {}  # launched, not ready yet
        self._bus = bus
        self._machine = machine
        self._meter = Meter(pool, now)
        self._pressure = Pressure()
        self._announce = announce
        self._told = cordon.state
        self._one_less = asyncio.Event()
        self.news = asyncio.Event()  # that the next heartbeat should not wait for its time: there is room again

    def order(self, start: messages.Start) -> tuple[messages.Started, list[Instance]]:
        """Accept what there is room for; returns the answer and what has to be launched."""
        if not self.cordon.open:
            return messages.Started([], Refusal.DRAINING), []
        if not self.fence.admits(start.router, start.epoch, start.function):
            return messages.Started([], Refusal.STALE), []
        admission = self.pool.order(start.function, start.version, start.memory_mb, start.instances, self.now())
        self._stop(admission.evicted)
        return messages.Started(admission.accepted, admission.reason), admission.starting

    def stop(self, stop: messages.Stop) -> None:
        if self.fence.admits(stop.router, stop.epoch, stop.function):
            self._stop(self.pool.shrink(stop.function, stop.version, stop.count))

    def hold(self, hold: messages.Hold) -> None:
        if self.fence.admits(hold.router, hold.epoch, hold.function):
            limits = (_seconds(hold.keep_alive_ms), _seconds(hold.further_keep_alive_ms))
            self.pool.hold(hold.function, hold.version, Hold(max(0, hold.count), *limits), self.now())

    def adopt(self, adopt: messages.Adopt) -> messages.Adopted:
        """Recognise the routers of a new epoch, and hand this one what is its own by now."""
        self.invoker.tell_routers()
        self.fence.renew(adopt.epoch, adopt.members)
        self.calls.forget_routers(self.fence.members | {adopt.router})

        def owned(function: str) -> bool:
            return self.fence.owner(function) == adopt.router

        link, calls = self.calls.adopt(adopt.router, owned, self.now())
        instances = [
            messages.InstanceView(i.group.function, i.group.version, i.id, i.state.value)
            for i in self.pool.instances.values()
            if owned(i.group.function)
        ]
        return messages.Adopted(self.name, self.epoch, link.last_seq, instances, calls)

    def drain(self, drain: messages.Drain) -> messages.Drained:
        """The word of a leading scaler."""
        refusal = self.cordon.order(drain.on, drain.epoch, self.now())
        if not refusal:
            self.log.info("node.drain" if drain.on else "node.undrain", scaler=drain.scaler, epoch=drain.epoch)
        self.tidy()
        return messages.Drained(self.name, self.epoch, self.cordon.state.value, refusal)

    async def leave(self, *, at_once: bool) -> None:
        """Drain for good, until nothing is left; ``at_once``: no owner can replace what is held."""
        self.cordon.stop(self.now())
        while True:
            self._one_less.clear()
            self.tidy(held=not at_once)
            if not self.pool.instances:
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(TIDY_S):
                    await self._one_less.wait()

    def tidy(self, *, held: bool = True) -> None:
        """Let go of what has to go by now. Several times a second, and whenever that may have changed."""
        now = self.now()
        # Without a connection nobody who stops may hope that owners replace anything.
        held = held and (self._bus.connected or not self.cordon.stopping) and self.pool.holds(now)
        match self.cordon.step(held=held, left=bool(self.pool.instances), now=now):
            case Leaving.NOTHING:
                self._stop(self.pool.reclaim(now))
            case Leaving.SPARE:
                self._stop(self.pool.drain_spare(now))
            case Leaving.ALL:
                self._stop(self.pool.drain())
            case Leaving.RUNNING:
                self._stop(self.pool.drain())
                self._give_up()
        if self.cordon.state is not self._told:
            self._tell_state()

    def _tell_state(self) -> None:
        self._told = self.cordon.state
        self.invoker.no_slot = Refusal.BUSY if self.cordon.open else Refusal.DRAINING
        self._announce(not self.cordon.open)
        self.log.info("node.state", state=self._told.value)
        self.heartbeat()

    def _give_up(self) -> None:
        """Answer for the calls that are still running, and end their instances."""
        if self.calls:
            self.log.warning("drain.cut_short", calls=len(self.calls))
        for instance in list(self.pool.instances.values()):
            if instance.process is not None:
                instance.process.kill()
            for call in self.calls.of(instance):
                error = CallError(ErrorType.NODE_LOST, "the node was shut down", component=replies.COMPONENT)
                self.invoker.error(instance, call.id, error)

    def end_overdue(self) -> None:
        """Kill what has had its time: calls above their limit, instances that do not become ready."""
        now = self.now()
        for instance, call in self.calls.overdue(now):
            self.keepers[instance.id].time_out(call)
        for keeper in [keeper for keeper in self.starting.values() if keeper.ready_by <= now]:
            keeper.too_slow()

    def measure(self) -> None:
        self._meter.look()

    def relieve(self) -> None:
        """Give memory back before the machine or the container runs out of it, whatever was promised."""
        memory = self._machine.memory()
        was_high = self._pressure.high
        excess_mb = self._pressure.excess_mb(memory.used_mb, memory.total_mb)
        victims = self.pool.relieve(excess_mb, self.now()) if self._pressure.high else []
        self._stop(victims)
        if self._pressure.high and (victims or not was_high):
            self.log.warning(
                "memory.pressure",
                used_mb=round(memory.used_mb),
                total_mb=round(memory.total_mb),
                evicted=len(victims),
            )

    def _stop(self, drained: Iterable[Instance]) -> None:
        """These take no more calls; those that have none go now, the others when they are done."""
        for group in {instance.group: None for instance in drained}:
            self.routes.update(group)
            self.invoker.serve(group)
        for instance in drained:
            if instance.finished and instance.process is not None:
                instance.process.stop()

    def remove(self, instance: Instance, cpu_ms: float) -> None:
        """Its process is gone."""
        self.asking.end(instance)
        self.pool.remove(instance)
        if self.pool.memory_used_mb + instance.group.memory_mb > CROWDED * self.pool.memory_mb:
            self.news.set()
        self.invoker.serve(instance.group)
        del self.keepers[instance.id]
        self.reports.usage(instance, cpu_ms)
        self._one_less.set()
        if not self.pool.instances:
            self.tidy()

    def report_failed(self, router: str, instance: Instance, error: CallError) -> None:
        """Tell the function's present owner, or else the router that asked for the instance."""
        group = instance.group
        self.log.warning(
            "instance.failed",
            function=group.function,
            version=group.version,
            instance=instance.id,
            error=error.message,
        )
        self.reports.failed(self.fence.owner(group.function) or router, instance, error)

    def heartbeat(self) -> None:
        self.news.clear()
        self.invoker.tell_routers()
        self.reports.heartbeat()


def _seconds(keep_alive_ms: int) -> float | None:
    """Below 0: as the version says."""
    return None if keep_alive_ms < 0 else keep_alive_ms / 1000
