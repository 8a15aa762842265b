"""Which instances this node has, and which of them must go.

Nothing here waits, knows the time or talks to anyone: callers say what happened and do what is answered.

Invariants
* Memory is promised before a start is accepted, and never more of it than the node has. An instance holds its promise
  for as long as it can run a call; one that was told to stop has a moment to leave, not a claim.
* Nobody with a call in flight is reclaimed or evicted, and no more than leaves what is held.
* Of a version's idle instances the one that has been idle longest is reclaimed first, and none before its time is over:
  an instance goes at most once in the time that it may be idle.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from mayfly_proto.messages import Refusal
from mayfly_proto.states import Event, move
from mayfly_proto.states import Instance as State
from mayfly_worker import eviction
from mayfly_worker.group import Group, Instance
from mayfly_worker.holds import Hold, Holds

FIRST_CALL_S = 1.0  # an instance that has just become ready is not evicted before the call it was started for can come
PRIVATE_MB = 20.0  # that one instance is taken to use before any of its version was measured


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
        self.starts = 0  # accepted
        self.evicted = 0
        self._holds = Holds()
        self._inflation = eviction.Inflation()

    @property
    def memory_used_mb(self) -> int:
        return sum(i.group.memory_mb for i in self.instances.values() if i.live or i.in_flight)

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
            group = self.groups[key] = Group(function, version, memory_mb, self._inflation)
        instance = self.instances[id_] = group.members[id_] = Instance(id_, group, now)
        self.starts += 1
        return instance

    def _make_room(self, missing_mb: int, beneficiary: tuple[str, int], now: float) -> list[Instance] | None:
        """Drain idle instances of others; None (and nobody is) when that is not enough."""
        if missing_mb <= 0:
            return []
        others = (group for key, group in self.groups.items() if key != beneficiary)
        victims = eviction.choose(self._evictable(others, now), missing_mb, _promised_mb)
        if sum(map(_promised_mb, victims)) < missing_mb:
            return None
        self._evict(victims)
        return victims

    def relieve(self, excess_mb: float, now: float) -> list[Instance]:
        """Drain idle instances until so much memory is really free, or none is left that may go."""
        victims = eviction.choose(self._evictable(self.groups.values(), now), excess_mb, _private_mb)
        self._evict(victims)
        return victims

    def _evictable(self, groups: Iterable[Group], now: float) -> Iterator[Instance]:
        for group in groups:
            for instance in self._spare(group, now):
                if instance.calls or now - instance.idle_since >= FIRST_CALL_S:
                    yield instance

    def _evict(self, victims: Iterable[Instance]) -> None:
        for victim in victims:
            self._inflation.rise(eviction.value(victim))
            self.evicted += 1
            victim.group.drain(victim)

    def _spare(self, group: Group, now: float) -> list[Instance]:
        """Idle instances above what is held, the longest idle first."""
        idle = list(group.idle)
        held = self.held(group, now)
        return idle[: max(0, len(group.in_service()) - held)] if held else idle

    def hold(self, function: str, version: int, hold: Hold, now: float) -> None:
        """Its owner's word, for five minutes from now."""
        self._holds.put(function, version, hold, now)

    def held(self, group: Group, now: float) -> int:
        """So many ready instances stay, idle or not."""
        return self._holds.of(group.function, group.version, now).instances

    def reclaim(self, now: float) -> list[Instance]:
        """Drain those that have been idle for as long as they may."""
        over = [instance for group in self.groups.values() for instance in self._over(group, now)]
        for instance in over:
            instance.group.drain(instance)
        return over

    def _over(self, group: Group, now: float) -> Iterator[Instance]:
        idle = group.idle
        if not idle:
            return
        hold = self._holds.of(group.function, group.version, now)
        last_s = group.keep_alive_s if hold.keep_alive_s is None else hold.keep_alive_s
        further_s = group.keep_alive_s if hold.further_keep_alive_s is None else hold.further_keep_alive_s
        if now - next(iter(idle)).idle_since < min(last_s, further_s):
            return
        left = len(group.in_service())
        for instance in idle:
            limit_s = last_s if left == 1 else further_s
            if left <= hold.instances or now - instance.idle_since < limit_s:
                return
            yield instance
            left -= 1

    def shrink(self, function: str, version: int, count: int) -> list[Instance]:
        """Drain ``count`` ready instances, idle ones first; below 0: everything, also what is still starting."""
        group = self.groups.get((function, version))
        if group is None:
            return []
        members = group.members.values()
        if count < 0:
            return _drained(i for i in members if i.live)
        ready = sorted((i for i in members if i.ready), key=lambda instance: (instance.in_flight, instance.idle_since))
        return _drained(ready[:count])

    def holds(self, now: float) -> bool:
        """Something here is held that its owner has not replaced yet."""
        held = (group for group in self.groups.values() if self.held(group, now))
        return any(instance.live for group in held for instance in group.members.values())

    def drain_spare(self, now: float) -> list[Instance]:
        """What nobody holds goes; a group that is held goes on serving with what it has in use."""
        return _drained(
            instance
            for group in self.groups.values()
            for instance in (self._spare(group, now) if self.held(group, now) else group.members.values())
            if instance.live
        )

    def drain(self) -> list[Instance]:
        """Everything goes."""
        return _drained(instance for instance in self.instances.values() if instance.live)

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


def _drained(instances: Iterable[Instance]) -> list[Instance]:
    chosen = list(instances)
    for instance in chosen:
        instance.group.drain(instance)
    return chosen


def _promised_mb(instance: Instance) -> float:
    return instance.group.memory_mb


def _private_mb(instance: Instance) -> float:
    return instance.group.private_mb or PRIVATE_MB
