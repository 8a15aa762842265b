"""On which node a new instance goes.

The lowest rank first: nodes fill up one after the other, so that the last ones stay empty and can be taken away (98
forced moves in eight hours where spreading evenly has 3,915). A node is filled to 90 %, and one function has at most
half of its instances on one node once it has four, so that a lost node does not take all of it; both give way before
the call has to wait. When nowhere is room, the node with the most idle instances of others is asked: it evicts, or it
refuses. Among the nodes that the load needs anyhow, one that has had the version lately comes first: it has the code,
and perhaps a process that has imported it. A node whose processors are busy is asked when no other can take it.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache
from math import ceil
from typing import NamedTuple

from mayfly_proto.messages import Refusal

FILL = 0.90
SPREAD_FROM = 4  # instances of a function
SPREAD = 0.5
START_SLOTS_PER_CORE = 8  # starts at once; the rest waits at the router
BUSY_PERCENT = 90.0  # of what a node may use of its processors

_NO_LABELS: Mapping[str, str] = {}


class Candidate:
    """A node as the placement fills it; counts grow with every pick."""

    __slots__ = (
        "_count_idle",
        "_evicted",
        "_idle",
        "busy",
        "familiar",
        "instances",
        "labels",
        "memory_mb",
        "name",
        "start_slots",
        "used_mb",
    )

    def __init__(
        self,
        name: str,
        memory_mb: int,
        used_mb: int,
        start_slots: int,
        *,
        instances: int = 0,
        familiar: bool = False,
        idle: Callable[[], int] = int,
        cpu_percent: float = 0.0,
        labels: Mapping[str, str] = _NO_LABELS,
    ) -> None:
        self.name = name
        self.memory_mb = memory_mb
        self.used_mb = used_mb
        self.start_slots = start_slots  # left
        self.instances = instances  # of this function
        self.familiar = familiar  # has, or lately had, instances of this version
        self._count_idle = idle
        self._idle: int | None = None
        self._evicted = 0
        self.busy = cpu_percent > BUSY_PERCENT
        self.labels = labels

    @property
    def idle(self) -> int:
        """Instances of other versions, that may be evicted: counted when somebody asks, since a node may have many."""
        if self._idle is None:
            self._idle = self._count_idle()
        return self._idle - self._evicted

    def has(self, labels: Mapping[str, str]) -> bool:
        return labels.items() <= self.labels.items()

    def fits(self, memory_mb: int, fill: float = 1.0) -> bool:
        return self.used_mb + memory_mb <= self.memory_mb * fill

    def take(self, memory_mb: int) -> None:
        self._evicted += not self.fits(memory_mb)
        self.used_mb += memory_mb
        self.start_slots -= 1
        self.instances += 1
        self.familiar = True

    def __repr__(self) -> str:
        return (
            f"<Candidate {self.name} {self.used_mb}/{self.memory_mb} MB, {self.start_slots} slots, "
            f"{self.instances} instances>"
        )


class Placement(NamedTuple):
    nodes: dict[str, list[str]]  # node → instances
    rest: list[str]
    reason: str  # why the rest has no place


def place(
    candidates: Collection[Candidate],
    instances: Collection[str],
    memory_mb: int,
    labels: Mapping[str, str] = _NO_LABELS,
) -> Placement:
    """Choose a node with these labels for each instance. The candidates are counted up as they fill."""
    ranked = sorted((node for node in candidates if node.has(labels)), key=lambda node: rank(node.name))
    used_mb = sum(node.used_mb for node in ranked)
    total = sum(node.instances for node in ranked)
    nodes: dict[str, list[str]] = {}
    rest = []
    for instance in instances:
        node = _choose(ranked, memory_mb, used_mb, total)
        if node is None:
            rest.append(instance)
        else:
            node.take(memory_mb)
            used_mb += memory_mb
            total += 1
            nodes.setdefault(node.name, []).append(instance)
    if rest and candidates and not ranked:
        return Placement(nodes, rest, Refusal.LABELS)
    return Placement(nodes, rest, _reason(ranked, memory_mb) if rest else "")


@lru_cache(maxsize=10_000)
def rank(name: str) -> tuple[tuple[int, str], ...]:
    """The order in which nodes fill: n2 before n10."""
    return tuple((int(digits or 0), text) for text, digits in re.findall(r"(\D*)(\d*)", name))


def _choose(ranked: Sequence[Candidate], memory_mb: int, used_mb: int, total: int) -> Candidate | None:
    """``used_mb`` and ``total`` instances of the function: on all of these nodes."""
    needed = _needed(ranked, used_mb + memory_mb)
    limit = ceil(SPREAD * total) if total >= SPREAD_FROM else total + 1
    for busy in (False, True):
        chosen = _with_room(ranked, busy, memory_mb, needed, limit) or _with_idle(ranked, busy, memory_mb)
        if chosen is not None:
            return chosen
    return None


def _with_room(ranked: Sequence[Candidate], busy: bool, memory_mb: int, needed: int, limit: int) -> Candidate | None:
    """One pass, which ends behind the nodes that are needed as soon as none behind can be better: a cluster may have
    a thousand nodes, and most of them are behind."""
    first: dict[int, Candidate] = {}  # by how well it suits, 0 the best
    familiar: dict[int, Candidate] = {}
    for position, node in enumerate(ranked):
        if position >= needed and 0 in first:
            break
        if node.busy is not busy or node.start_slots <= 0 or not node.fits(memory_mb):
            continue
        tier = 2 if not node.fits(memory_mb, FILL) else 1 if node.instances >= limit else 0
        first.setdefault(tier, node)
        if node.familiar and position < needed:
            familiar.setdefault(tier, node)
    best = min(first, default=None)
    return None if best is None else familiar.get(best, first[best])


def _with_idle(ranked: Sequence[Candidate], busy: bool, memory_mb: int) -> Candidate | None:
    crowded = (
        node
        for node in ranked
        if node.busy is busy and node.start_slots > 0 and node.idle > 0 and node.memory_mb >= memory_mb
    )
    return max(crowded, key=lambda node: node.idle, default=None)


def _needed(ranked: Sequence[Candidate], load_mb: int) -> int:
    """How many nodes, from the first, the present load asks for."""
    room = 0.0
    for count, node in enumerate(ranked, 1):
        room += node.memory_mb * FILL
        if load_mb <= room:
            return count
    return len(ranked)


def _reason(ranked: Sequence[Candidate], memory_mb: int) -> str:
    if not ranked:
        return Refusal.NO_NODES
    return Refusal.SLOTS if any(node.fits(memory_mb) for node in ranked) else Refusal.NO_ROOM
