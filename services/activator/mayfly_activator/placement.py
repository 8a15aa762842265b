"""On which node a new instance goes.

The lowest rank first: nodes fill up one after the other, so that the last ones stay empty and can be taken away (98
forced moves in eight hours where spreading evenly has 3,915). A node is filled to 90 %, and one function has at most
half of its instances on one node once it has four, so that a lost node does not take all of it; both give way before
the call has to wait. When nowhere is room, the node with the most idle instances of others is asked: it evicts, or it
refuses. Among the nodes that the load needs anyhow, one that knows the version already comes first: it has
the code, and perhaps a process that has imported it.
"""

import re
from collections.abc import Collection, Iterable
from math import ceil
from typing import NamedTuple

from mayfly_proto.messages import Refusal

FILL = 0.90
SPREAD_FROM = 4  # instances of a function
SPREAD = 0.5
START_SLOTS_PER_CORE = 8  # starts at once; the rest waits at the router
NO_NODES = "no_nodes"


class Candidate:
    """A node as the placement fills it; counts grow with every pick."""

    __slots__ = ("familiar", "idle", "instances", "memory_mb", "name", "start_slots", "used_mb")

    def __init__(
        self,
        name: str,
        memory_mb: int,
        used_mb: int,
        start_slots: int,
        *,
        instances: int = 0,
        familiar: bool = False,
        idle: int = 0,
    ) -> None:
        self.name = name
        self.memory_mb = memory_mb
        self.used_mb = used_mb
        self.start_slots = start_slots  # left
        self.instances = instances  # of this function
        self.familiar = familiar  # has instances of this version
        self.idle = idle  # instances of other versions, that may be evicted

    def fits(self, memory_mb: int, fill: float = 1.0) -> bool:
        return self.used_mb + memory_mb <= self.memory_mb * fill

    def take(self, memory_mb: int) -> None:
        self.idle -= not self.fits(memory_mb)
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


def place(candidates: Iterable[Candidate], instances: Collection[str], memory_mb: int) -> Placement:
    """Choose a node for each instance. The candidates are counted up as they fill."""
    ranked = sorted(candidates, key=lambda node: rank(node.name))
    nodes: dict[str, list[str]] = {}
    rest = []
    for instance in instances:
        node = _choose(ranked, memory_mb)
        if node is None:
            rest.append(instance)
        else:
            node.take(memory_mb)
            nodes.setdefault(node.name, []).append(instance)
    return Placement(nodes, rest, _reason(ranked, memory_mb) if rest else "")


def rank(name: str) -> list[tuple[int, str]]:
    """The order in which nodes fill: n2 before n10."""
    return [(int(digits or 0), text) for text, digits in re.findall(r"(\D*)(\d*)", name)]


def _choose(ranked: list[Candidate], memory_mb: int) -> Candidate | None:
    possible = [node for node in ranked if node.start_slots > 0 and node.fits(memory_mb)]
    roomy = [node for node in possible if node.fits(memory_mb, FILL)]
    total = sum(node.instances for node in ranked)
    limit = ceil(SPREAD * total) if total >= SPREAD_FROM else total + 1
    spread = [node for node in roomy if node.instances < limit]
    for tier in (spread, roomy, possible):
        if tier:
            needed = set(ranked[: _needed(ranked, memory_mb)])
            return next((node for node in tier if node.familiar and node in needed), tier[0])
    crowded = [node for node in ranked if node.start_slots > 0 and node.idle > 0 and node.memory_mb >= memory_mb]
    return max(crowded, key=lambda node: node.idle, default=None)


def _needed(ranked: list[Candidate], memory_mb: int) -> int:
    """How many nodes, from the first, the present load asks for."""
    load = sum(node.used_mb for node in ranked) + memory_mb
    room = 0.0
    for count, node in enumerate(ranked, 1):
        room += node.memory_mb * FILL
        if load <= room:
            return count
    return len(ranked)


def _reason(ranked: list[Candidate], memory_mb: int) -> str:
    if not ranked:
        return NO_NODES
    return Refusal.SLOTS if any(node.fits(memory_mb) for node in ranked) else Refusal.NO_ROOM
