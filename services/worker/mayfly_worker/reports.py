"""What the node tells of itself: heartbeat and load, what an instance cost, what came to nothing, a list for people."""

from collections.abc import Callable

from mayfly_chassis.bus import Bus
from mayfly_chassis.errors import BusError
from mayfly_proto import codec, messages, records, subjects
from mayfly_proto.errors import CallError
from mayfly_worker import replies
from mayfly_worker.calls import Calls
from mayfly_worker.complaints import Complaints
from mayfly_worker.cordon import Cordon
from mayfly_worker.group import Instance
from mayfly_worker.logs import rfc3339
from mayfly_worker.machine import Machine
from mayfly_worker.pool import Pool


class Reports:
    def __init__(
        self,
        name: str,
        epoch: int,
        bus: Bus,
        pool: Pool,
        calls: Calls,
        cordon: Cordon,
        machine: Machine,
        now: Callable[[], float],
        complain: Complaints,
    ) -> None:
        self._name = name
        self._epoch = epoch
        self._bus = bus
        self._pool = pool
        self._calls = calls
        self._cordon = cordon
        self._machine = machine
        self._now = now
        self._complain = complain
        self._heartbeats = 0

    def heartbeat(self) -> None:
        pool = self._pool
        self._heartbeats += 1
        instances: dict[str, dict[str, records.VersionLoad]] = {}
        for group in pool.groups.values():
            instances.setdefault(group.function, {})[str(group.version)] = group.load()
        load = records.NodeLoad(
            node=self._name,
            epoch=self._epoch,
            seq=self._heartbeats,
            memory_mb=pool.memory_mb,
            memory_used_mb=pool.memory_used_mb,
            cpu_percent=round(self._machine.cpu_percent(), 1),
            instances=instances,
            routers=self._calls.seen(),
            state=self._cordon.state.value,
            starts=pool.starts,
            evicted=pool.evicted,
        )
        self._publish(subjects.load_node(self._name), records.encode(load))

    def failed(self, router: str, instance: Instance, error: CallError) -> None:
        """A start came to nothing."""
        group = instance.group
        failed = messages.Failed(
            self._name,
            self._epoch,
            group.function,
            group.version,
            instance.id,
            error.kind.value,
            error.message[: replies.MAX_MESSAGE],
            error.traceback[-replies.MAX_TRACEBACK :],
        )
        self._publish(subjects.router_failed(router), codec.pack(failed))

    def usage(self, instance: Instance, cpu_ms: float) -> None:
        """It is gone."""
        group = instance.group
        usage = records.Usage(
            time=rfc3339(),
            function=group.function,
            version=group.version,
            instance=instance.id,
            node=self._name,
            calls=instance.calls,
            busy_ms=round(instance.busy_s * 1000, 3),
            alive_ms=round((self._now() - instance.ordered_at) * 1000, 3),
            memory_mb=group.memory_mb,
            cpu_ms=round(cpu_ms, 3),
        )
        self._publish(subjects.usage(group.function), records.encode(usage))

    def instances(self) -> list[records.InstanceRecord]:
        return [self._row(instance, self._now()) for instance in self._pool.instances.values()]

    def _row(self, instance: Instance, now: float) -> records.InstanceRecord:
        process = instance.process
        idle_s = now - instance.idle_since if instance.idle_since and not instance.in_flight else 0.0
        return records.InstanceRecord(
            instance=instance.id,
            function=instance.group.function,
            version=instance.group.version,
            node=self._name,
            state=instance.state.value,
            pid=process.pid if process is not None else 0,
            calls=instance.calls,
            age_s=round(now - instance.ordered_at, 3),
            idle_s=round(idle_s, 3),
            memory_mb=round(process.resident_mb(), 1) if process is not None else 0.0,
            cold_start_ms=instance.phases_ms,
        )

    def _publish(self, subject: str, payload: bytes) -> None:
        try:
            self._bus.publish(subject, payload)
        except BusError as error:
            self._complain("report.lost", str(error))
