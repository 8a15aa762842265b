"""Each node, and where in its life it is.

Nothing here is remembered that could not be seen anew: leases, targets and what the provider has are the truth, so that
a scaler that takes over in the middle of anything goes on with it. Only ages are its own, by its own clock: how long a
node has been booting or lost counts from when this scaler saw it first.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from mayfly_proto import states
from mayfly_proto.records import NodeLease, NodeTarget
from mayfly_proto.reports import NodeReport
from mayfly_scaler.nodes.amount import Nodes
from mayfly_scaler.nodes.demand import Kind, Seen
from mayfly_scaler.nodes.life import COMING, PRESENT, Event, State, move
from mayfly_scaler.reports import STALE_S, Heard

SCALER = "scaler"  # who wrote a `NodeTarget`
OPERATOR = "operator"


class Facts(NamedTuple):
    leases: Mapping[str, NodeLease]
    reports: Mapping[str, Heard[NodeReport]]
    targets: Mapping[str, NodeTarget]
    listed: frozenset[str]  # what the provider has


class Moved(NamedTuple):
    name: str
    before: State
    after: State


@dataclass(eq=False, slots=True)
class Node:
    name: str
    since: float  # in this state
    state: State = State.REQUESTED
    heard: float = float("-inf")  # its last report, or that it joined
    lease: NodeLease | None = None
    load: NodeReport | None = None
    target: NodeTarget | None = None
    listed: bool = False  # the provider has it
    asked: bool = False  # by this scaler, for the provider to have it
    leaving: bool = False  # the provider was asked to take it away

    @property
    def owned(self) -> bool:
        """It is the provider's."""
        return self.listed or (self.asked and self.state is State.REQUESTED)

    @property
    def to_be_empty(self) -> bool:
        """It is, or is going to be."""
        return self.target is not None or (self.lease is not None and self.lease.draining)

    @property
    def capacity(self) -> bool:
        return self.state in (State.UP, State.SUSPECT) and not self.to_be_empty

    @property
    def coming(self) -> bool:
        """One that was lost is: its provider starts it again."""
        return self.target is None and not self.leaving and self.state in (*COMING, State.LOST)

    @property
    def can_be_had_back(self) -> bool:
        """The scaler drains it, and may as well not."""
        by_us = self.target is not None and self.target.by == SCALER
        return by_us and self.owned and not self.leaving and self.state in PRESENT

    @property
    def used_mb(self) -> int:
        return self.load.memory_used_mb if self.load else 0


@dataclass(eq=False, slots=True)
class Fleet:
    boot_s: float
    _nodes: dict[str, Node] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Node]:
        return iter(self._nodes.values())

    def __getitem__(self, name: str) -> Node:
        return self._nodes[name]

    def __contains__(self, name: str) -> bool:
        return name in self._nodes

    def requested(self, name: str, now: float) -> None:
        """The provider is being asked for it, and it counts as coming from now on."""
        self._nodes[name] = Node(name, now, asked=True)

    def not_requested(self, name: str) -> None:
        """That came to nothing, or nobody knows; if the provider has it after all, it will be seen."""
        if name in self._nodes and self._nodes[name].state is State.REQUESTED:
            del self._nodes[name]

    def look(self, now: float, facts: Facts) -> list[Moved]:
        """Take in how things stand now; the answer is what has changed since."""
        for name in (facts.leases.keys() | facts.listed) - self._nodes.keys():
            self._nodes[name] = Node(name, now)
        moved = []
        for name, node in list(self._nodes.items()):
            _learn(node, facts)
            while event := _event(node, now, self.boot_s):
                before, node.state = node.state, move(node.state, event)
                node.since = now
                if event is Event.JOINED:
                    node.heard, node.leaving = max(node.heard, now), False
                moved.append(Moved(name, before, node.state))
            if node.state is State.REMOVED:
                del self._nodes[name]
        return moved

    def amounts(self, *, kind: Kind, blocked: bool, provider_fails: bool) -> Nodes:
        owned = [node for node in self if node.owned]
        up = sum(node.capacity for node in owned)
        booting = sum(node.coming for node in owned)
        draining = sum(node.can_be_had_back for node in owned)
        present = [node for node in self if node.state in PRESENT]
        others_mb = sum(node.lease.memory_mb for node in self if node.lease and node.capacity and not node.owned)
        return Nodes(
            up=up,
            booting=booting,
            draining=draining,
            held=len(owned) - up - booting - draining,
            fixed=others_mb / kind.memory_mb,
            blocked=blocked,
            silent=sum(node.state is State.SUSPECT for node in present) / len(present) if present else 0.0,
            provider_fails=provider_fails,
        )

    def kind(self, memory_mb: int) -> Kind:
        """What the provider's nodes have, on average, and the labels of all of them; ``memory_mb``: what it is said to
        be while there is none."""
        leases = [node.lease for node in self if node.lease and node.owned]
        if not leases:
            return Kind(memory_mb, 1.0)
        count = len(leases)
        return Kind(
            sum(lease.memory_mb for lease in leases) / count,
            sum(lease.cores for lease in leases) / count,
            dict(set.intersection(*(set(lease.labels.items()) for lease in leases))),
        )

    def seen(self) -> Iterator[Seen]:
        """Nodes whose load is known, the ones to be empty among them: their instances move to others."""
        return (Seen(n.lease, n.load) for n in self if n.lease and n.load and n.state in PRESENT)


def _learn(node: Node, facts: Facts) -> None:
    node.lease = facts.leases.get(node.name)
    node.target = facts.targets.get(node.name)
    node.listed = node.name in facts.listed
    report = facts.reports.get(node.name)
    if report is not None and node.lease is not None and report.load.epoch == node.lease.epoch:
        node.load, node.heard = report.load, max(node.heard, report.at)
    elif node.lease is None or (node.load is not None and node.load.epoch != node.lease.epoch):
        node.load = None


def _event(node: Node, now: float, boot_s: float) -> Event | None:
    """The first thing that has happened to it and that its state does not show yet."""
    if node.state in PRESENT:
        return _presence(node, now)
    if node.state is State.REMOVED:
        return None
    if node.lease is not None:
        return Event.JOINED
    if node.state is State.REQUESTED:
        if node.listed:
            return Event.LISTED
    elif not node.listed:
        return Event.UNLISTED
    late = node.state is not State.GIVEN_UP and now - node.since >= boot_s
    return Event.LATE if late else None


def _presence(node: Node, now: float) -> Event | None:
    if node.lease is None:
        return Event.ENDED
    silent = now - node.heard > STALE_S
    if node.state is State.SUSPECT:
        return None if silent else Event.HEARD
    if silent:
        return Event.SILENT
    if node.state is State.UP:
        return Event.DRAINS if node.lease.draining else None
    if not node.lease.draining:
        return Event.RESUMED
    said_empty = node.load is not None and node.load.state == states.Node.EMPTY.value
    return Event.EMPTIED if node.state is State.DRAINING and said_empty and node.heard > node.since else None
