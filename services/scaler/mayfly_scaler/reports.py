"""What nodes and routers say of themselves once a second, and how long ago this process heard it.

Ages are counted by this process's own monotonic clock from the moment a report came in: no report carries a time of
day, so nobody's clock can be wrong. A report that is older than `STALE_S` says nothing; one that is missing in between
is made up for by the next. The standby listens as well, and so knows as much as the leader on the day it takes over.
"""

from collections.abc import Callable, Iterator
from time import monotonic
from typing import Generic, NamedTuple, TypeVar

from mayfly_chassis.bus import Bus
from mayfly_chassis.mirror import Mirror
from mayfly_proto import codec, records, storage, subjects
from mayfly_proto.messages import Blocked
from mayfly_proto.records import FunctionLoad, NodeLease
from mayfly_proto.reports import NodeReport
from mayfly_scaler.told import News, Router, decode_node

STALE_S = 3.0
GONE_S = 10.0  # as long as a router's lease: what it said of functions then, another owner would have to repeat

NOTHING = FunctionLoad()

L = TypeVar("L")

_decode_blocked = codec.Unpacker(Blocked)


class Heard(NamedTuple, Generic[L]):
    load: L
    at: float  # by this process's clock


class Reports:
    """Callbacks are called as reports come in, synchronously."""

    def __init__(self, bus: Bus, clock: Callable[[], float] = monotonic) -> None:
        self.clock = clock
        self.leases: dict[str, NodeLease] = {}
        self.nodes: dict[str, Heard[NodeReport]] = {}
        self.owners: dict[str, Router] = {}  # functions with anything to say → the router that said it last
        self.on_router: list[Callable[[News], None]] = []
        self.on_blocked: list[Callable[[Blocked], None]] = []
        self._blocked: dict[tuple[str, int], Heard[Blocked]] = {}  # function, version → orders without a place
        self._routers: dict[bytes, Router] = {}  # by the subject of their reports
        self._bus = bus
        self._leases = Mirror(bus, storage.NODES, self._lease)

    async def start(self) -> None:
        await self._leases.start()
        await self._bus.subscribe(subjects.LOAD_NODES, self._node)
        await self._bus.subscribe(subjects.LOAD_ROUTERS, self._router)
        await self._bus.subscribe(subjects.BLOCKED, self._no_place)

    async def stop(self) -> None:
        await self._leases.stop()

    def fresh_nodes(self) -> Iterator[NodeReport]:
        """Last reports of the nodes that have a lease, without stale ones."""
        oldest = self.clock() - STALE_S
        for name, lease in self.leases.items():
            heard = self.nodes.get(name)
            if heard is not None and heard.at >= oldest and heard.load.epoch == lease.epoch:
                yield heard.load

    def function(self, name: str) -> FunctionLoad | None:
        """What its owner says of a function; None when that is stale, `FunctionLoad()` when it has nothing to say."""
        now, owner = self.clock(), self.owners.get(name)
        if owner is not None:
            if owner.at >= now - STALE_S:
                return owner.loads.get(name)
            if owner.at >= now - GONE_S:
                return None
            del self.owners[name]
        return NOTHING if any(router.at >= now - STALE_S for router in self._routers.values()) else None

    def fresh_blocked(self, since: float = float("-inf")) -> Iterator[Blocked]:
        oldest = self.clock() - STALE_S
        self._blocked = {key: heard for key, heard in self._blocked.items() if heard.at >= oldest}
        return (heard.load for heard in self._blocked.values() if heard.at >= since)

    def _lease(self, name: str, value: bytes | None) -> None:
        if value is None:
            self.leases.pop(name, None)
            self.nodes.pop(name, None)
        else:
            self.leases[name] = records.decode(value, NodeLease)

    def _node(self, _subject: bytes, _reply: bytes, _raw: bytes | None, payload: bytes) -> None:
        report = decode_node(payload)
        if report.node in self.leases:
            self.nodes[report.node] = Heard(report, self.clock())

    def _router(self, subject: bytes, _reply: bytes, _raw: bytes | None, payload: bytes) -> None:
        now, router = self.clock(), self._routers.get(subject)
        if router is None:
            self._forget_the_gone(now)
            router = self._routers[subject] = Router(now)
        news = router.hear(payload, now)
        for name in news.gone:
            if self.owners.get(name) is router:
                del self.owners[name]
        self.owners |= dict.fromkeys(router.loads, router)
        for callback in self.on_router:
            callback(news)

    def _forget_the_gone(self, now: float) -> None:
        """Routers of which nothing counts any more, as new ones come under new names."""
        self._routers = {subject: router for subject, router in self._routers.items() if router.at >= now - GONE_S}
        self.owners = {name: owner for name, owner in self.owners.items() if owner.at >= now - GONE_S}

    def _no_place(self, _subject: bytes, _reply: bytes, _raw: bytes | None, payload: bytes) -> None:
        blocked, _ = _decode_blocked(payload)
        self._blocked[blocked.function, blocked.version] = Heard(blocked, self.clock())
        for callback in self.on_blocked:
            callback(blocked)
