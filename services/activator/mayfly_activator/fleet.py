"""What the activator knows of the nodes: leases, last reports, and its own orders that no report shows yet."""

from collections.abc import Callable, Collection
from time import monotonic
from typing import NamedTuple

from mayfly_activator.placement import START_SLOTS_PER_CORE, Candidate
from mayfly_proto import records, states, storage
from mayfly_proto.records import NodeLease, NodeLoad, Route

STALE_S = 3.0  # an older report is not placed by
KNOWN_S = 900.0  # after its last instance a node has the code of a version, and for so long perhaps a template
SMOOTHING = 0.3  # weight of a report in a node's use of its processors: one busy second says little


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
        self._known: dict[tuple[str, str], float] = {}  # function, version → last reported; the longest ago first

    @property
    def open(self) -> bool:
        """It takes new instances: by its lease and by its last word, whichever comes first."""
        return not self.lease.draining and (self.load is None or self.load.state == states.Node.UP.value)

    def candidate(self, function: str, version: int) -> Candidate:
        own = [*self.asked, *self.accepted]
        reported = self.load.instances if self.load else {}
        used_mb = self.load.memory_used_mb if self.load else 0
        mine = reported.get(function, {})
        others = [by for name, by in reported.items() if name != function]
        others.append({number: load for number, load in mine.items() if number != str(version)})
        return Candidate(
            self.lease.node,
            self.lease.memory_mb,
            used_mb + sum(len(order.instances) * order.memory_mb for order in own),
            START_SLOTS_PER_CORE * self.lease.cores - len(self.starting),
            instances=sum(load.ready + load.starting for load in mine.values())
            + sum(len(order.instances) for order in own if order.function == function),
            familiar=(function, str(version)) in self._known or (function, version) in self.starting.values(),
            idle=sum(load.ready - load.busy for by in others for load in by.values()),
            cpu_percent=self.cpu_percent,
            labels=self.lease.labels,
        )

    def report(self, load: NodeLoad, now: float) -> None:
        """What the node accepted before it sent this is in it: its words come in the order in which it says them."""
        self.cpu_percent += SMOOTHING * (load.cpu_percent - self.cpu_percent)
        self._remember(load, now)
        self.load = load
        self.accepted.clear()
        asked = {instance for order in self.asked for instance in order.instances}
        for instance, (function, version) in list(self.starting.items()):
            counts = load.instances.get(function, {}).get(str(version))
            if instance not in asked and not (counts and counts.starting):
                del self.starting[instance]

    def _remember(self, load: NodeLoad, now: float) -> None:
        for function, versions in load.instances.items():
            for version in versions:
                self._known.pop((function, version), None)
                self._known[function, version] = now
        while self._known and next(iter(self._known.values())) < now - KNOWN_S:
            del self._known[next(iter(self._known))]


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
