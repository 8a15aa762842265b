"""What the activator knows of the nodes: leases, last reports, and its own orders that no report shows yet."""

from collections.abc import Callable, Collection
from time import monotonic
from typing import NamedTuple

from mayfly_activator.placement import START_SLOTS_PER_CORE, Candidate
from mayfly_proto import records, states, storage
from mayfly_proto.records import NodeLease, NodeLoad, Route, VersionLoad

STALE_S = 3.0  # an older report is not placed by
KNOWN_S = 900.0  # after its last instance a node has the code of a version, and for so long perhaps a template
SMOOTHING = 0.3  # weight of a report in a node's use of its processors: one busy second says little

_NONE: dict[str, VersionLoad] = {}


class Order(NamedTuple):
    function: str
    version: int
    instances: tuple[str, ...]
    memory_mb: int


class Node:
    def __init__(self, lease: NodeLease, joined: float) -> None:
        self.lease = lease
        self.load: NodeLoad | None = None
        self.heard = joined
        self.asked: list[Order] = []  # not answered
        self.accepted: list[Order] = []  # answered since the last report
        self.starting: dict[str, tuple[str, int]] = {}  # instance → function, version; by our orders, not ready yet
        self.cpu_percent = 0.0
        self._idle = 0  # instances, in the last report
        self._reported = joined
        self._left: dict[tuple[str, str], float] = {}  # function, version → last reported; the longest ago first

    @property
    def open(self) -> bool:
        """It takes new instances: by its lease and by its last word, whichever comes first."""
        return not self.lease.draining and (self.load is None or self.load.state == states.Node.UP.value)

    def candidate(self, function: str, version: int) -> Candidate:
        used_mb = self.load.memory_used_mb if self.load else 0
        mine = self.load.instances.get(function, _NONE) if self.load else _NONE
        same = mine.get(str(version))
        instances = sum([counts.ready + counts.starting for counts in mine.values()])
        for order in (*self.asked, *self.accepted):
            used_mb += len(order.instances) * order.memory_mb
            instances += len(order.instances) if order.function == function else 0
        return Candidate(
            self.lease.node,
            self.lease.memory_mb,
            used_mb,
            START_SLOTS_PER_CORE * self.lease.cores - len(self.starting),
            instances=instances,
            familiar=same is not None
            or (function, str(version)) in self._left
            or (function, version) in self.starting.values(),
            idle=self._idle - (same.ready - same.busy if same is not None else 0),
            cpu_percent=self.cpu_percent,
            labels=self.lease.labels,
        )

    def report(self, load: NodeLoad, now: float) -> None:
        """What the node accepted before it sent this is in it: its words come in the order in which it says them."""
        self.cpu_percent += SMOOTHING * (load.cpu_percent - self.cpu_percent)
        self._remember(load, now)
        self.load, self._reported = load, now
        self._idle = sum(counts.ready - counts.busy for by in load.instances.values() for counts in by.values())
        self.accepted.clear()
        asked = {instance for order in self.asked for instance in order.instances}
        for instance, (function, version) in list(self.starting.items()):
            counts = load.instances.get(function, {}).get(str(version))
            if instance not in asked and not (counts and counts.starting):
                del self.starting[instance]

    def _remember(self, load: NodeLoad, now: float) -> None:
        """What it has no more it knows for a while."""
        for function, versions in self.load.instances.items() if self.load else ():
            present = load.instances.get(function, _NONE)
            for version in versions.keys() - present.keys() if versions.keys() != present.keys() else ():
                self._left.pop((function, version), None)
                self._left[function, version] = self._reported
        while self._left and next(iter(self._left.values())) < now - KNOWN_S:
            del self._left[next(iter(self._left))]


class Fleet:
    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._nodes: dict[str, Node] = {}

    def on_lease(self, name: str, value: bytes | None) -> None:
        if value is None:
            self._nodes.pop(name, None)
            return
        lease = records.decode(value, NodeLease)
        node = self._nodes.get(name)
        if node is None or node.lease.epoch != lease.epoch:
            self._nodes[name] = Node(lease, self._clock())
        else:
            node.lease = lease

    def on_load(self, _subject: bytes, _reply: bytes, _raw: bytes | None, payload: bytes) -> None:
        load = records.decode(payload, NodeLoad)
        node = self._nodes.get(load.node)
        if node is not None and node.lease.epoch == load.epoch:
            node.heard = self._clock()
            node.report(load, node.heard)

    def candidates(self, function: str, version: int, without: Collection[str] = ()) -> list[Candidate]:
        """The nodes that can be placed on now."""
        now = self._clock()
        return [
            node.candidate(function, version)
            for name, node in self._nodes.items()
            if node.open and now - node.heard <= STALE_S and name not in without
        ]

    def on_route(self, key: str, value: bytes | None) -> None:
        """Instances that are in the Route Cache start no longer."""
        node = self._nodes.get(storage.parse_route_key(key)[0])
        if value is not None and node is not None and node.starting:
            for instance in records.decode(value, Route).instances:
                node.starting.pop(instance, None)

    def ask(self, name: str, order: Order) -> None:
        """An order is on its way to the node, and counts from now on."""
        if node := self._nodes.get(name):
            node.asked.append(order)
            node.starting |= dict.fromkeys(order.instances, (order.function, order.version))

    def answered(self, name: str, order: Order, accepted: Collection[str]) -> None:
        """The node took these of them."""
        if (node := self._nodes.get(name)) is None or order not in node.asked:
            return
        node.asked.remove(order)
        if accepted:
            node.accepted.append(order._replace(instances=tuple(accepted)))
        for instance in set(order.instances).difference(accepted):
            node.starting.pop(instance, None)
