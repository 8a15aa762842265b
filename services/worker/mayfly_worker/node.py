"""One node: its instances, its calls, and everything that is done to them but the warm path.

All of it is synchronous and runs on the loop, so each order is carried out as a whole; what takes time (starting an
instance, writing a route) is begun here and goes on elsewhere.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import psutil
import structlog

from mayfly_chassis.bus import Bus
from mayfly_chassis.errors import BusError
from mayfly_proto import codec, messages, records, subjects
from mayfly_proto.errors import CallError, ErrorType
from mayfly_proto.messages import Refusal
from mayfly_worker import replies
from mayfly_worker.asking import Asking
from mayfly_worker.calls import Calls
from mayfly_worker.complaints import Complaints
from mayfly_worker.fence import Fence
from mayfly_worker.invoke import Invoker
from mayfly_worker.logs import NodeLogs, rfc3339
from mayfly_worker.packages import Packages
from mayfly_worker.pool import Instance, Pool
from mayfly_worker.routes import Routes
from mayfly_worker.runtime import PythonRuntime
from mayfly_worker.services import Services

if TYPE_CHECKING:
    from mayfly_worker.keeper import Keeper


class Node:
    def __init__(
        self,
        *,
        name: str,
        epoch: int,
        bus: Bus,
        pool: Pool,
        runtime: PythonRuntime,
        packages: Packages,
        routes: Routes,
        tasks: asyncio.TaskGroup,
        now: Callable[[], float],
        log: structlog.typing.FilteringBoundLogger,
    ) -> None:
        self.name = name
        self.epoch = epoch
        self.pool = pool
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
        self.keepers: dict[str, Keeper] = {}
        self.starting: dict[str, Keeper] = {}  # launched, not ready yet
        self.draining = False
        self._bus = bus
        self._heartbeats = 0
        self._one_less = asyncio.Event()

    def order(self, start: messages.Start) -> tuple[messages.Started, list[Instance]]:
        """Accept what there is room for; returns the answer and what has to be launched."""
        if self.draining:
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
            self.pool.hold(hold.function, hold.version, hold.count, self.now())

    def adopt(self, adopt: messages.Adopt) -> messages.Adopted:
        """Recognise the routers of a new epoch, and hand this one what is its own by now."""
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

    def drain(self) -> None:
        """Take no more work; what runs may finish."""
        self.draining = True
        self.invoker.no_slot = Refusal.DRAINING
        self._stop(self.pool.drain())

    async def emptied(self) -> None:
        """The last instance is gone."""
        while self.pool.instances:
            self._one_less.clear()
            await self._one_less.wait()

    def give_up(self) -> None:
        """Answer for the calls that are still running, and end their instances."""
        for instance in list(self.pool.instances.values()):
            for call in self.calls.of(instance):
                error = CallError(ErrorType.NODE_LOST, "the node was shut down", component=replies.COMPONENT)
                self.invoker.error(instance, call.id, error)
            if instance.process is not None:
                instance.process.kill()

    def end_overdue(self) -> None:
        """Kill what has had its time: calls above their limit, instances that do not become ready."""
        now = self.now()
        for call in self.calls.overdue(now):
            self.keepers[call.instance.id].time_out(call)
        for keeper in [keeper for keeper in self.starting.values() if keeper.ready_by <= now]:
            keeper.too_slow()

    def reclaim(self) -> None:
        self._stop(self.pool.reclaim(self.now()))

    def _stop(self, drained: Iterable[Instance]) -> None:
        """These take no more calls; those that have none go now, the others when they are done."""
        for group in {instance.group: None for instance in drained}:
            self.routes.update(group)
        for instance in drained:
            if instance.finished and instance.process is not None:
                instance.process.stop()

    def remove(self, instance: Instance, cpu_ms: float) -> None:
        """Its process is gone."""
        self.asking.end(instance)
        self.pool.remove(instance)
        del self.keepers[instance.id]
        self._report_usage(instance, cpu_ms)
        self._one_less.set()

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
        failed = messages.Failed(
            self.name,
            self.epoch,
            group.function,
            group.version,
            instance.id,
            error.kind.value,
            error.message[: replies.MAX_MESSAGE],
            error.traceback[-replies.MAX_TRACEBACK :],
        )
        owner = self.fence.owner(group.function) or router
        self._publish(subjects.router_failed(owner), codec.pack(failed))

    def _report_usage(self, instance: Instance, cpu_ms: float) -> None:
        group = instance.group
        usage = records.Usage(
            time=rfc3339(),
            function=group.function,
            version=group.version,
            instance=instance.id,
            node=self.name,
            calls=instance.calls,
            busy_ms=round(instance.busy_s * 1000, 3),
            alive_ms=round((self.now() - instance.ordered_at) * 1000, 3),
            memory_mb=group.memory_mb,
            cpu_ms=round(cpu_ms, 3),
        )
        self._publish(subjects.usage(group.function), records.encode(usage))

    def heartbeat(self) -> None:
        self._heartbeats += 1
        instances: dict[str, dict[str, records.VersionLoad]] = {}
        for group in self.pool.groups.values():
            instances.setdefault(group.function, {})[str(group.version)] = group.load()
        load = records.NodeLoad(
            node=self.name,
            epoch=self.epoch,
            seq=self._heartbeats,
            memory_mb=self.pool.memory_mb,
            memory_used_mb=self.pool.memory_used_mb,
            cpu_percent=psutil.cpu_percent(),
            instances=instances,
            routers=self.calls.seen(),
        )
        self._publish(subjects.load_node(self.name), records.encode(load))

    def instances(self) -> list[records.InstanceRecord]:
        now = self.now()
        return [
            records.InstanceRecord(
                instance=i.id,
                function=i.group.function,
                version=i.group.version,
                node=self.name,
                state=i.state.value,
                pid=i.process.pid if i.process is not None else 0,
                calls=i.calls,
                age_s=round(now - i.ordered_at, 3),
                idle_s=round(now - i.idle_since, 3) if i.idle_since and not i.in_flight else 0.0,
                memory_mb=round(i.process.resident_mb(), 1) if i.process is not None else 0.0,
                cold_start_ms=i.phases_ms,
            )
            for i in self.pool.instances.values()
        ]

    def _publish(self, subject: str, payload: bytes) -> None:
        try:
            self._bus.publish(subject, payload)
        except BusError as error:
            self.complain("report.lost", str(error))
