"""Which instances this node has, which of them takes the next call, and which must go.

Nothing here waits, knows the time or talks to anyone: callers say what happened and do what is answered.

Invariants
* Memory is promised before a start is accepted, and never more of it than the node has. An instance holds its promise
  for as long as it can run a call; one that was told to stop has a moment to leave, not a claim.
* An instance is on offer exactly while it is ready and has a free slot. `Group._offers[k]` holds those with ``k + 1``
  free slots, so that the fullest instance that still has room comes first, and the last one used within a level: the
  others stay idle, and their keep-alive can run out.
* Nobody with a call in flight is reclaimed or evicted, and no more than leaves what is held.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from mayfly_proto.messages import Refusal
from mayfly_proto.records import VersionLoad, VersionSpec
from mayfly_proto.states import Event, move
from mayfly_proto.states import Instance as State

if TYPE_CHECKING:
    from mayfly_worker.calls import Call
    from mayfly_worker.instance_process import Process

HOLD_S = 300.0
WAITING_LIMIT = 4096  # calls of one group that came ahead: far more than a router sends
FIRST_CALL_S = 1.0  # an instance that has just become ready is not evicted before the call it was started for can come

_READY = (State.IDLE, State.BUSY)
_LIVE = (State.STARTING, State.IDLE, State.BUSY)


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
    phases_ms: dict[str, float] = field(default_factory=dict)
    process: "Process | None" = None

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
    """The instances of one version of a function."""

    def __init__(self, function: str, version: int, memory_mb: int) -> None:
        self.function = function
        self.version = version
        self.memory_mb = memory_mb
        self.members: dict[str, Instance] = {}
        self.waiting: deque[Waiting] = deque()
        self._set_concurrency(1)
        self.keep_alive_s = 0.0
        self.timeout_ms = 0

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
            instance.idle_since = now
        self._offer(instance)

    def ready(self, instance: Instance, now: float) -> None:
        instance.state = move(instance.state, Event.READY)
        instance.idle_since = now
        self._offer(instance)

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
        if free and instance.state in _READY:
            self._offers[free - 1][instance.id] = instance

    def _withdraw(self, instance: Instance) -> None:
        free = self.concurrency - instance.in_flight
        if free:
            self._offers[free - 1].pop(instance.id, None)

    @property
    def lets_wait(self) -> bool:
        """Something is there, or comes, that could take a call that waits."""
        return len(self.waiting) < WAITING_LIMIT and any(i.state in _LIVE for i in self.members.values())

    def idle(self) -> Iterable[Instance]:
        """Those without a call in flight, the longest idle first."""
        return self._offers[-1].values()

    def in_service(self) -> list[str]:
        """What the Route Cache shows: who is ready, busy or not."""
        return [instance.id for instance in self.members.values() if instance.state in _READY]

    def load(self) -> VersionLoad:
        states = [instance.state for instance in self.members.values()]
        return VersionLoad(
            ready=states.count(State.IDLE) + states.count(State.BUSY),
            busy=states.count(State.BUSY),
            starting=states.count(State.STARTING),
        )

    def __repr__(self) -> str:
        members = ", ".join(f"{i.id} {i.state.value} {i.in_flight}" for i in self.members.values())
        return f"<{self.function}@{self.version}: {members or 'empty'}>"


@dataclass(frozen=True, slots=True)
class Admission:
    """What became of a start order."""

    starting: list[Instance]  # to be started now
    accepted: list[str]  # those, and the ones that were ordered before
    evicted: list[Instance]  # draining already: to be stopped
    reason: str = ""  # a Refusal for those that are not accepted


class Pool:
    def __init__(self, memory_mb: int, max_starting: int) -> None:
        self.memory_mb = memory_mb
        self.max_starting = max_starting
        self.groups: dict[tuple[str, int], Group] = {}
        self.instances: dict[str, Instance] = {}
        self._holds: dict[tuple[str, int], tuple[int, float]] = {}

    @property
    def memory_used_mb(self) -> int:
        return sum(i.group.memory_mb for i in self.instances.values() if i.state in _LIVE or i.in_flight)

    def order(self, function: str, version: int, memory_mb: int, ids: Iterable[str], now: float) -> Admission:
        """Make room for new instances, as far as there is any; an id that is known already is not started twice."""
        starting: list[Instance] = []
        accepted: list[str] = []
        evicted: list[Instance] = []
        slots = self.max_starting - sum(i.state is State.STARTING for i in self.instances.values())
        free_mb = self.memory_mb - self.memory_used_mb
        for id_ in ids:
            if id_ not in self.instances:
                if len(starting) >= slots:
                    return Admission(starting, accepted, evicted, Refusal.SLOTS)
                victims = self._make_room(memory_mb - free_mb, (function, version), now)
                if victims is None:
                    return Admission(starting, accepted, evicted, Refusal.NO_ROOM)
                evicted += victims
                free_mb += sum(victim.group.memory_mb for victim in victims) - memory_mb
                starting.append(self._add(id_, function, version, memory_mb, now))
            accepted.append(id_)
        return Admission(starting, accepted, evicted)

    def _add(self, id_: str, function: str, version: int, memory_mb: int, now: float) -> Instance:
        key = (function, version)
        group = self.groups.get(key)
        if group is None:
            group = self.groups[key] = Group(function, version, memory_mb)
        instance = self.instances[id_] = group.members[id_] = Instance(id_, group, now)
        return instance

    def _make_room(self, missing_mb: int, beneficiary: tuple[str, int], now: float) -> list[Instance] | None:
        """Drain idle instances of others, least recently used first; None (and nobody is) when that is not enough."""
        if missing_mb <= 0:
            return []
        candidates = [
            instance
            for key, group in self.groups.items()
            if key != beneficiary
            for instance in self._spare(group, now)
            if instance.calls or now - instance.idle_since >= FIRST_CALL_S
        ]
        candidates.sort(key=lambda instance: instance.idle_since)
        victims: list[Instance] = []
        for victim in candidates:
            if missing_mb <= 0:
                break
            victims.append(victim)
            missing_mb -= victim.group.memory_mb
        if missing_mb > 0:
            return None
        for victim in victims:
            victim.group.drain(victim)
        return victims

    def _spare(self, group: Group, now: float) -> Iterator[Instance]:
        """Idle instances above what is held, the longest idle first."""
        held = self.held(group, now)
        spare = len(group.in_service()) - held if held else len(group.members)
        for _, instance in zip(range(spare), group.idle(), strict=False):
            yield instance

    def hold(self, function: str, version: int, count: int, now: float) -> None:
        """Keep so many ready instances, for five minutes from now."""
        self._holds[function, version] = (count, now + HOLD_S)

    def held(self, group: Group, now: float) -> int:
        count, until = self._holds.get((group.function, group.version), (0, 0.0))
        return count if now < until else 0

    def reclaim(self, now: float) -> list[Instance]:
        """Drain those whose keep-alive is over, the longest idle first."""
        self._holds = {key: hold for key, hold in self._holds.items() if now < hold[1]}
        over = [
            instance
            for group in self.groups.values()
            for instance in self._spare(group, now)
            if now - instance.idle_since >= group.keep_alive_s
        ]
        for instance in over:
            instance.group.drain(instance)
        return over

    def shrink(self, function: str, version: int, count: int) -> list[Instance]:
        """Drain ``count`` ready instances, idle ones first; below 0: everything, also what is still starting."""
        group = self.groups.get((function, version))
        if group is None:
            return []
        live = [i for i in group.members.values() if i.state in (_LIVE if count < 0 else _READY)]
        live.sort(key=lambda instance: (instance.in_flight, instance.idle_since))
        chosen = live if count < 0 else live[:count]
        for instance in chosen:
            group.drain(instance)
        return chosen

    def drain(self) -> list[Instance]:
        """Everything goes."""
        self._holds.clear()
        return [i for function, version in list(self.groups) for i in self.shrink(function, version, -1)]

    def remove(self, instance: Instance) -> None:
        """Its process is gone. Its state says how: STOPPED as it was told to, FAILED otherwise."""
        if instance.finished:
            instance.state = move(instance.state, Event.GONE)
        elif instance.state is not State.FAILED:
            instance.group.fail(instance)
        del self.instances[instance.id], instance.group.members[instance.id]
        if not instance.group.members:
            del self.groups[instance.group.function, instance.group.version]

    def __repr__(self) -> str:
        return f"<Pool {self.memory_used_mb}/{self.memory_mb} MB {list(self.groups.values())}>"
