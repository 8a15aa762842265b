"""What the activator knows of the nodes: leases, last reports, routes, and its own orders that nothing shows yet.

A thousand nodes report once a second, so what goes through all that a node has is done when it is asked for: a report
is read as far as every order needs it, and how many instances of a function are where, the Route Cache tells by itself.
"""

from collections.abc import Callable, Collection, Mapping
from time import monotonic
from typing import NamedTuple

import msgspec

from mayfly_activator.placement import START_SLOTS_PER_CORE, Candidate
from mayfly_proto import records, states, storage
from mayfly_proto.records import NodeLease, Route, VersionLoad
from mayfly_proto.reports import NodeReport

STALE_S = 3.0  # an older report is not placed by
KNOWN_S = 900.0  # after its last instance a node has the code of a version, and for so long perhaps a template
SMOOTHING = 0.3  # weight of a report in a node's use of its processors: one busy second says little


Counts = dict[str, dict[str, VersionLoad]]  # function → version → counts

_decode_report = msgspec.json.Decoder(NodeReport).decode
_decode_instances = msgspec.json.Decoder(Counts).decode
_NOWHERE: Mapping[str, dict[int, Route]] = {}
_NOTHING: Mapping[int, Route] = {}


class Order(NamedTuple):
    function: str
    version: int
    instances: tuple[str, ...]
    memory_mb: int


class Node:
    def __init__(self, lease: NodeLease, joined: float) -> None:
        self.lease = lease
        self.last: NodeReport | None = None
        self.heard = joined
        self.asked: list[Order] = []  # not answered
        self.accepted: list[Order] = []  # answered since the last report
        self.starting: dict[str, tuple[str, int]] = {}  # instance → function, version; by our orders, not ready yet
        self.cpu_percent = 0.0
        self._counts: Counts | None = None  # of the last report, once somebody has asked
        self._left: dict[tuple[str, int], float] = {}  # versions it has none of any more; the longest ago first

    @property
    def open(self) -> bool:
        """It takes new instances: by its lease and by its last word, whichever comes first."""
        return not self.lease.draining and (self.last is None or self.last.state == states.Node.UP.value)

    def candidate(self, function: str, version: int, routes: Mapping[int, Route]) -> Candidate:
        """``routes``: by version, what the Route Cache has of the function here."""
        epoch = self.lease.epoch
        used_mb = self.last.memory_used_mb if self.last else 0
        for order in (*self.asked, *self.accepted):
            used_mb += len(order.instances) * order.memory_mb
        starting = list(self.starting.values())
        ready = {number: len(route.instances) for number, route in routes.items() if route.epoch == epoch}
        return Candidate(
            self.lease.node,
            self.lease.memory_mb,
            used_mb,
            START_SLOTS_PER_CORE * self.lease.cores - len(starting),
            instances=sum(ready.values()) + sum(name == function for name, _ in starting),
            familiar=version in ready or (function, version) in self._left or (function, version) in starting,
            idle=lambda: self._idle(function, version),
            cpu_percent=self.cpu_percent,
            labels=self.lease.labels,
        )

    def report(self, report: NodeReport, now: float) -> None:
        """What the node accepted before it sent this is in it: its words come in the order in which it says them."""
        self.last, self._counts, self.heard = report, None, now
        self.cpu_percent += SMOOTHING * (report.cpu_percent - self.cpu_percent)
        self.accepted.clear()
        if self.starting:
            self._forget_ended()
        while self._left and next(iter(self._left.values())) < now - KNOWN_S:
            del self._left[next(iter(self._left))]

    def leave(self, function: str, version: int, now: float) -> None:
        """The last instance of it has gone."""
        self._left.pop((function, version), None)
        self._left[function, version] = now

    def _forget_ended(self) -> None:
        """What was accepted, is not in the Route Cache and does not start there has come to nothing."""
        asked = {instance for order in self.asked for instance in order.instances}
        for instance, (function, version) in list(self.starting.items()):
            counts = self._reported().get(function, {}).get(str(version))
            if instance not in asked and not (counts and counts.starting):
                del self.starting[instance]

    def _idle(self, function: str, version: int) -> int:
        """Instances of other versions that it could do without."""
        return sum(
            counts.ready - counts.busy
            for name, versions in self._reported().items()
            for number, counts in versions.items()
            if (name, number) != (function, str(version))
        )

    def _reported(self) -> Counts:
        if self._counts is None:
            self._counts = _decode_instances(self.last.instances) if self.last is not None else {}
        return self._counts


class Fleet:
    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._nodes: dict[str, Node] = {}
        self._routes: dict[str, dict[str, dict[int, Route]]] = {}  # function → node → version

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
        report = _decode_report(payload)
        node = self._nodes.get(report.node)
        if node is not None and node.lease.epoch == report.epoch:
            node.report(report, self._clock())

    def candidates(self, function: str, version: int, without: Collection[str] = ()) -> list[Candidate]:
        """The nodes that can be placed on now."""
        now = self._clock()
        routes = self._routes.get(function, _NOWHERE)
        return [
            node.candidate(function, version, routes.get(name, _NOTHING))
            for name, node in self._nodes.items()
            if node.open and now - node.heard <= STALE_S and name not in without
        ]

    def on_route(self, key: str, value: bytes | None) -> None:
        """Instances that are in the Route Cache start no longer; a version without an entry has none there any more."""
        name, version, function = storage.parse_route_key(key)
        node = self._nodes.get(name)
        if value is None:
            self._forget(function, name, version)
            if node is not None:
                node.leave(function, version, self._clock())
            return
        route = records.decode(value, Route)
        self._routes.setdefault(function, {}).setdefault(name, {})[version] = route
        if node is not None and node.starting:
            for instance in route.instances:
                node.starting.pop(instance, None)

    def _forget(self, function: str, name: str, version: int) -> None:
        nodes = self._routes.get(function, {})
        versions = nodes.get(name, {})
        versions.pop(version, None)
        if not versions:
            nodes.pop(name, None)
        if not nodes:
            self._routes.pop(function, None)

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
