"""The instances of one version on this node: which of them takes the next call, and what each is doing.

An instance is on offer exactly while it is ready and has a free slot. `Group._offers[k]` holds those with ``k + 1``
free slots, so that the fullest instance that still has room comes first, and the last one used within a level: the
others stay idle, and their keep-alive can run out.
"""

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from mayfly_proto.records import VersionLoad, VersionSpec
from mayfly_proto.states import Event, move
from mayfly_proto.states import Instance as State
from mayfly_worker.eviction import Inflation

if TYPE_CHECKING:
    from mayfly_worker.calls import Call
    from mayfly_worker.instance_process import Process

WAITING_LIMIT = 4096  # calls of one group that came ahead: far more than a router sends
SMOOTHING = 0.3  # weight of a new sample in what is known of a version's instances

READY = (State.IDLE, State.BUSY)
LIVE = (State.STARTING, State.IDLE, State.BUSY)


@dataclass(slots=True)
class Usage:
    """What one instance was found to use, and when that was looked at."""

    cpu_percent: float = 0.0  # of one core
    spent_s: float | None = None  # processor time since it was forked; None: not looked at yet
    looked_at: float = 0.0
    calls: int = 0
    busy: bool = False
    measured_at: float = 0.0  # its memory


@dataclass(slots=True, eq=False)
class Instance:
    """One instance; only `Group` and `Pool` change its state."""

    id: str
    group: "Group"
    ordered_at: float
    state: State = State.STARTING
    in_flight: int = 0
    calls: int = 0
    busy_s: float = 0.0  # time in handlers, of all calls that are over
    idle_since: float = 0.0
    inflation: float = 0.0  # when it fell idle
    phases_ms: dict[str, float] = field(default_factory=dict)
    usage: Usage = field(default_factory=Usage)
    process: "Process | None" = None

    @property
    def ready(self) -> bool:
        return self.state in READY

    @property
    def live(self) -> bool:
        return self.state in LIVE

    @property
    def finished(self) -> bool:
        """Told to stop, and no call left in it."""
        return self.state is State.DRAINING and not self.in_flight


class Waiting(NamedTuple):
    """A durable call that came ahead of its slot: there was no need to wait for it."""

    call: "Call"
    budget_ms: int
    attempt: int
    payload: bytes


class Group:
    def __init__(self, function: str, version: int, memory_mb: int, inflation: Inflation) -> None:
        self.function = function
        self.version = version
        self.memory_mb = memory_mb  # promised to each
        self.members: dict[str, Instance] = {}
        self.waiting: deque[Waiting] = deque()
        self._set_concurrency(1)
        self.keep_alive_s = 0.0
        self.timeout_ms = 0
        self.cold_s = 0.0  # mean time from order to ready; 0: none was yet
        self.private_mb = 0.0  # that an instance adds to what the node uses; 0: not measured
        self.measured_at = 0.0
        self._inflation = inflation

    def configure(self, spec: VersionSpec) -> None:
        """What the version says, once it is known; before any of its instances is ready."""
        if self.timeout_ms:
            return
        self._set_concurrency(spec.concurrency)
        self.keep_alive_s = spec.idle_limit_s
        self.timeout_ms = round(spec.timeout_s * 1000)

    def _set_concurrency(self, concurrency: int) -> None:
        self.concurrency = concurrency
        self._offers: list[dict[str, Instance]] = [{} for _ in range(concurrency)]

    def take(self) -> Instance | None:
        """The instance for the next call, which is now in flight there; None when all slots are in use."""
        for offers in self._offers:
            if offers:
                instance = offers.popitem()[1]
                instance.state = move(instance.state, Event.TAKE)
                instance.in_flight += 1
                instance.calls += 1
                self._offer(instance)
                return instance
        return None

    def release(self, instance: Instance, now: float) -> None:
        """One of its calls is over."""
        self._withdraw(instance)
        instance.in_flight -= 1
        if not instance.in_flight and instance.state is State.BUSY:
            instance.state = move(instance.state, Event.FREE)
            self._idle_from(instance, now)
        self._offer(instance)

    def ready(self, instance: Instance, now: float) -> None:
        instance.state = move(instance.state, Event.READY)
        self.cold_s = smoothed(self.cold_s, now - instance.ordered_at)
        self._idle_from(instance, now)
        self._offer(instance)

    def _idle_from(self, instance: Instance, now: float) -> None:
        instance.idle_since = now
        instance.inflation = self._inflation.value

    def drain(self, instance: Instance) -> None:
        """It takes no more calls."""
        self._withdraw(instance)
        instance.state = move(instance.state, Event.DRAIN)

    def fail(self, instance: Instance) -> None:
        """It is, or is about to be, dead."""
        self._withdraw(instance)
        instance.state = move(instance.state, Event.DIE)

    def _offer(self, instance: Instance) -> None:
        free = self.concurrency - instance.in_flight
        if free and instance.state in READY:
            self._offers[free - 1][instance.id] = instance

    def _withdraw(self, instance: Instance) -> None:
        free = self.concurrency - instance.in_flight
        if free:
            self._offers[free - 1].pop(instance.id, None)

    @property
    def lets_wait(self) -> bool:
        """Something is there, or comes, that could take a call that waits."""
        return len(self.waiting) < WAITING_LIMIT and any(i.live for i in self.members.values())

    @property
    def idle(self) -> Collection[Instance]:
        """Those without a call in flight, the longest idle first."""
        return self._offers[-1].values()

    def in_service(self) -> list[str]:
        """What the Route Cache shows: who is ready, busy or not."""
        return [instance.id for instance in self.members.values() if instance.ready]

    def measured(self, private_mb: float) -> None:
        """One of its instances was found to add so much to what the node uses."""
        self.private_mb = smoothed(self.private_mb, private_mb)

    def load(self) -> VersionLoad:
        busy = idle = starting = 0
        cpu_percent = 0.0
        for instance in self.members.values():
            state = instance.state
            if state is State.IDLE:
                idle += 1
                cpu_percent += instance.usage.cpu_percent
            elif state is State.BUSY:
                busy += 1
                cpu_percent += instance.usage.cpu_percent
            elif state is State.STARTING:
                starting += 1
        ready = busy + idle
        return VersionLoad(
            ready=ready,
            busy=busy,
            starting=starting,
            private_mb=round(self.private_mb, 1),
            cpu_percent=round(cpu_percent / ready, 1) if ready else 0.0,
        )

    def __repr__(self) -> str:
        members = ", ".join(f"{i.id} {i.state.value} {i.in_flight}" for i in self.members.values())
        return f"<{self.function}@{self.version}: {members or 'empty'}>"


def smoothed(mean: float, sample: float) -> float:
    """The first sample counts in full."""
    return mean + SMOOTHING * (sample - mean) if mean else sample
