"""What the activator knows of the nodes: leases, last reports, and its own orders that no report shows yet."""

from collections.abc import Callable, Collection
from time import monotonic
from typing import NamedTuple

from mayfly_activator.placement import START_SLOTS_PER_CORE, Candidate
from mayfly_proto import records
from mayfly_proto.records import NodeLease, NodeLoad

STALE_S = 3.0  # an older report is not placed by


class Order(NamedTuple):
    function: str
    version: int
    number: int
    memory_mb: int


class Node:
    def __init__(self, lease: NodeLease, joined: float) -> None:
        self.lease = lease
        self.load: NodeLoad | None = None
        self.heard = joined
        self.asked: list[Order] = []  # not answered
        self.accepted: list[Order] = []  # answered since the last report

    def candidate(self, function: str, version: int) -> Candidate:
        own = [*self.asked, *self.accepted]
        reported = self.load.instances if self.load else {}
        mine = reported.get(function, {})
        key = str(version)
        counts = [(name, number, load) for name, by in reported.items() for number, load in by.items()]
        return Candidate(
            self.lease.node,
            self.lease.memory_mb,
            (self.load.memory_used_mb if self.load else 0) + sum(order.number * order.memory_mb for order in own),
            START_SLOTS_PER_CORE * self.lease.cores
            - sum(load.starting for _, _, load in counts)
            - sum(order.number for order in own),
            instances=sum(load.ready + load.starting for load in mine.values())
            + sum(order.number for order in own if order.function == function),
            familiar=key in mine or any((o.function, o.version) == (function, version) for o in own),
            idle=sum(load.ready - load.busy for name, number, load in counts if (name, number) != (function, key)),
        )


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
        """What a node accepted before it sent this is in it: its words come in the order in which it says them."""
        load = records.decode(payload, NodeLoad)
        node = self._nodes.get(load.node)
        if node is not None and node.lease.epoch == load.epoch:
            node.load = load
            node.heard = self._clock()
            node.accepted.clear()

    def candidates(self, function: str, version: int, without: Collection[str] = ()) -> list[Candidate]:
        """The nodes that can be placed on now."""
        now = self._clock()
        return [
            node.candidate(function, version)
            for name, node in self._nodes.items()
            if not node.lease.draining and now - node.heard <= STALE_S and name not in without
        ]

    def ask(self, name: str, order: Order) -> None:
        """An order is on its way to the node, and counts from now on."""
        if node := self._nodes.get(name):
            node.asked.append(order)

    def answered(self, name: str, order: Order, accepted: int) -> None:
        """The node took so many of them."""
        if (node := self._nodes.get(name)) and order in node.asked:
            node.asked.remove(order)
            if accepted:
                node.accepted.append(order._replace(number=accepted))
