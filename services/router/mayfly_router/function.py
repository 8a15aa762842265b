"""One function at its owner: its versions, which of them is current, and the limits that they share.

`plan` says what to order and what to stop; the caller does it. See `pool` for one version, `activation` for the rule.
"""

from math import ceil
from typing import NamedTuple

from mayfly_proto import names
from mayfly_proto.messages import Refusal
from mayfly_proto.records import VersionSpec
from mayfly_router import activation, rates, throttle, wishes
from mayfly_router.allotment import Allotment, Allotments
from mayfly_router.backlog import Backlog
from mayfly_router.call import Call
from mayfly_router.durable.source import Source, sources
from mayfly_router.gaps import Gaps
from mayfly_router.pool import Pool

NO_LIMIT = 1_000_000
FULL_RETRY_S = 0.2  # at most between two orders of a function that may have more, and whose place others still have
PATIENCE_S = {  # how long a call waits although nothing of its function exists and none can be started
    Refusal.NO_ROOM: 1.0,  # instances that were told to go, or calls of others, may end at any moment
    Refusal.NO_NODES: 5.0,  # a worker that is being restarted is back by then
    Refusal.LABELS: 5.0,
}
# Reasons that another node would do away with.
SHORTAGE = (Refusal.NO_ROOM, Refusal.NO_NODES, Refusal.LABELS, Refusal.DRAINING)


class Stopping(NamedTuple):
    pool: Pool
    node: str
    number: int  # idle ones first; -1: all


class Plan(NamedTuple):
    orders: list[tuple[Pool, int]]
    stops: list[Stopping]
    denied: list[tuple[Pool, int]]  # not ordered, for it would be more than the function's share


class Change(NamedTuple):
    """What a new record means for those who wait and for what runs."""

    orphans: list[tuple[Pool, Call]]  # they asked for a version that is no more
    stops: list[Stopping]  # instances that nobody needs any longer


class Function:
    def __init__(self, name: str, backlog: Backlog, allotments: Allotments | None = None) -> None:
        self.name = names.check_function(name)
        self.pools: dict[int, Pool] = {}
        self.current: Pool | None = None  # None: deleted
        self.sources: list[Source] = []  # the consumers that feed it
        self.left = False  # another router's now
        self.calls = 0
        self.errors = 0  # answered by this router
        self.throttled = 0  # of them, for there are too many
        self.gaps = Gaps()
        self.target = wishes.NO_TARGET
        self.warm = False  # it is to have an instance: see `prewarm`
        self.allotment = Allotment(name, allotments or Allotments())
        self.rates: rates.Rates | None = None  # None: as many calls as come
        self._backlog = backlog

    def pool(self, pinned: int) -> Pool | None:
        return self.pools.get(pinned) if pinned else self.current

    def apply(self, specs: dict[int, VersionSpec], current: int, now: float) -> Change:
        """The versions that can be called are these, from now on. Waiting calls that asked for no version move to
        the current one; specs are immutable, so a version that is here already stays as it is."""
        before = self.current
        gone = [self.pools.pop(version) for version in list(self.pools) if version not in specs]
        for version, spec in specs.items():
            if version not in self.pools:
                self.pools[version] = Pool(spec, self._backlog, self.gaps)
        self.current = self.pools[current]
        if self.current is not before:
            known = {source.key: source for source in self.sources}
            self.sources = [known.get(source.key, source) for source in sources(self.current.spec)]
            self.rates = rates.renewed(self.rates, self.current.spec)
        if before is not None and before is not self.current:
            self._move(before, self.current, now)
        retired = [*gone, before] if before not in gone else gone
        orphans = [(pool, call) for pool in gone for call in pool.empty()]
        stops = [stop for pool in retired if pool and pool is not self.current for stop in _stop_all(pool)]
        for pool in gone:
            pool.shut()
        return Change(orphans, stops)

    def delete(self) -> Change:
        """There is no such function any longer."""
        pools = list(self.pools.values())
        orphans = [(pool, call) for pool in pools for call in pool.empty()]
        stops = [stop for pool in pools for stop in _stop_all(pool)]
        self.leave()
        self.pools, self.current = {}, None
        return Change(orphans, stops)

    def leave(self) -> list[Call]:
        """The function is another router's now. Returns all waiting calls, oldest first."""
        self.left = True
        waiting = [call for pool in self.pools.values() for call in pool.empty()]
        for pool in self.pools.values():
            pool.shut()
        return sorted(waiting, key=lambda call: call.arrived)

    def plan(self, now: float) -> Plan:
        """What the waiting calls and the minimum ask for, within the limit that all versions share."""
        orders: list[tuple[Pool, int]] = []
        denied: list[tuple[Pool, int]] = []
        if self.current is None:
            return Plan(orders, [], denied)
        room = self.room(now)
        free = self.current.spec.max_instances - self._existing
        short = 0
        for pool in self.pools.values():
            if now < pool.starts.retry_at:
                continue
            upstream = self._upstream_calls if pool is self.current else 0
            asked = activation.need(pool.demand(now, NO_LIMIT, upstream)) if pool.queue else 0
            wanted = max(asked, self._below_minimum(pool))
            granted = max(0, min(wanted, room))
            if granted:
                orders.append((pool, granted))
                room -= granted
                free -= granted
            short += wanted - granted
            if granted < min(wanted, free + granted):
                denied.append((pool, min(wanted, free + granted) - granted))
        return Plan(orders, [*self.trim(now), *self._make_room(max(short, -free))], denied)

    def room(self, now: float) -> int:
        """Instances that its limit and its share still allow."""
        if self.current is None:
            return 0
        return self.allotment.cap(self.current.spec.max_instances, now) - self._existing

    def trim(self, now: float) -> list[Stopping]:
        """What it has above its share is to go; calls that asked for an older version lose theirs first."""
        pools = sorted(self.pools.values(), key=lambda pool: pool is self.current)
        return [Stopping(s.pool, s.node.name, count) for s, count in self.allotment.trim(pools, now)]

    def wait_s(self, pool: Pool, now: float) -> float:
        """How long a call would wait for its turn that came to the queue now; 0 where nothing is known."""
        if pool.service_s is None or self.current is None:
            return 0.0
        most = self.current.spec.max_instances
        count = self.allotment.count(now)
        slots = pool.spec.concurrency * (most if count is None else min(most, count))
        slots = max(slots, pool.slots, pool.busy)
        return throttle.predicted_wait_s(pool.queue.urgent, pool.service_s, slots, pool.busy)

    def excessive_wait_s(self, pool: Pool, limit_s: float, now: float) -> float:
        """The same if it is longer than the limit, else 0."""
        if pool.service_s is None or pool.queue.urgent * pool.service_s <= limit_s * pool.slots:
            return 0.0  # what it has already is enough
        wait_s = self.wait_s(pool, now)
        return wait_s if wait_s > limit_s else 0.0

    def not_placed(self, pool: Pool, instances: list[str], reason: str, now: float) -> list[Call]:
        """No node took these. Returns the waiting calls for which there is no hope; a durable one always has some."""
        pool.starts.blocked = len(instances) if reason in SHORTAGE else 0
        if self.allotment.in_force(now):  # others are told to make room
            pool.starts.refused(instances, now, FULL_RETRY_S)
            return []
        pool.starts.refused(instances, now)
        if not pool.queue.urgent or any(pool.has_prospects for pool in self.pools.values()):
            return []
        waited_s = now - pool.queue.urgent_since
        return pool.urgent() if waited_s >= PATIENCE_S.get(reason, NO_LIMIT) else []

    @property
    def subjects(self) -> list[str]:
        """Of core NATS, that trigger it."""
        triggers = self.current.spec.triggers if self.current is not None else ()
        return [trigger.subject for trigger in triggers if trigger.subject and not trigger.stream]

    @property
    def upstream(self) -> int:
        """Events and durable calls that wait in streams."""
        return sum(source.pending for source in self.sources)

    @property
    def _upstream_calls(self) -> int:
        """As many calls as they will be."""
        batch = self.current.spec.batch if self.current is not None else None
        return ceil(self.upstream / batch.size) if batch is not None else self.upstream

    @property
    def waiting(self) -> int:
        return sum(len(pool.queue) for pool in self.pools.values())

    @property
    def restless(self) -> bool:
        """Something is due by time alone: calls wait, instances are coming, or some are lacking of the minimum."""
        return any(pool.queue or pool.starts for pool in self.pools.values()) or (
            self.current is not None and self._below_minimum(self.current) > 0
        )

    @property
    def quiet(self) -> bool:
        """Nothing of it waits, here or in a stream, runs, is coming or is lacking; it may have idle instances."""
        return not (
            self.restless
            or any(pool.busy for pool in self.pools.values())
            or any(source.held or source.pending for source in self.sources)
        )

    @property
    def minimum(self) -> int:
        """Instances of the current version that are to be ready whatever the calls ask for."""
        return 0 if self.current is None else wishes.minimum(self.current.spec, self.target, self.warm)

    @property
    def _existing(self) -> int:
        return sum(pool.held + len(pool.starts) for pool in self.pools.values())

    @property
    def blocked(self) -> int:
        """Instances that are wanted and found no place when they were ordered last."""
        blocked = [pool for pool in self.pools.values() if pool.starts.blocked]
        return sum(pool.starts.blocked for pool in blocked if pool.queue or self._below_minimum(pool) > 0)

    def unwanted(self) -> list[Stopping]:
        """Idle instances above the minimum."""
        return [] if self.current is None else self._make_room(self.current.held - self.minimum)

    def _below_minimum(self, pool: Pool) -> int:
        """What is on a node that drains counts for nothing here."""
        if pool is not self.current or not self.minimum:
            return 0
        missing = self.minimum - pool.staying - pool.starts.staying
        return min(missing, 1 - len(pool.starts)) if pool.starts.failures else missing

    def _make_room(self, short: int) -> list[Stopping]:
        """Idle instances of versions for which nobody waits, as many as are lacking; first where a node drains."""
        if short <= 0:
            return []
        stops = []
        for pool in self.pools.values():
            spare = 0 if pool.queue else pool.held - (self.minimum if pool is self.current else 0)
            for share in sorted(pool.shares.values(), key=lambda share: not share.node.draining):
                count = min(short, spare, share.idle)
                if count > 0:
                    stops.append(Stopping(pool, share.node.name, count))
                    pool.close(share)  # no call may meet an instance that is told to go
                    short -= count
                    spare -= count
        return stops

    def _move(self, source: Pool, target: Pool, now: float) -> None:
        moving = source.unpinned()
        if moving:
            target.put_back(moving + target.empty(), now)

    def __repr__(self) -> str:
        current = self.current.spec.version if self.current else None
        return f"<Function {self.name}, current {current}: {list(self.pools.values())}>"


def _stop_all(pool: Pool) -> list[Stopping]:
    """Unless somebody who asked for this very version waits for it."""
    return [] if pool.queue else [Stopping(pool, node, -1) for node in sorted(pool.retire())]
