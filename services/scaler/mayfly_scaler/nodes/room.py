"""Whether what a node has would find room on the others, instance by instance.

Demand is one figure, and says nothing of pieces: four instances of 540 MB use little more than two nodes of 1,000 MB
and need four. A node that is drained all the same is had back when its instance finds no place, and drained again, for
as long as the load stays as it is.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from mayfly_proto.records import NodeLease, VersionSpec
from mayfly_proto.reports import NodeReport
from mayfly_scaler.nodes.fleet import Node
from mayfly_scaler.told import counts

Specs = Callable[[str, int], VersionSpec | None]  # function, version → what it asks for


class _Free(NamedTuple):
    lease: NodeLease
    memory_mb: int


class Room:
    """What these nodes have free. Each node that is found to be dispensable takes its share of it."""

    def __init__(self, nodes: Iterable[Node], specs: Specs) -> None:
        self._free = {
            node.name: _Free(node.lease, node.lease.memory_mb - node.used_mb)
            for node in nodes
            if node.lease is not None and node.capacity
        }
        self._specs = specs

    def without(self, node: Node) -> bool:
        """Whether the others can have all of its instances; if so it is taken for gone, and they for moved."""
        others = {name: free for name, free in self._free.items() if name != node.name}
        found = self._asked_for(node.load) if node.load is not None else ()
        for spec, count in sorted(found, reverse=True, key=lambda each: each[0].memory_mb):
            left = count
            for name, (lease, memory_mb) in others.items():
                if spec.node_labels.items() <= lease.labels.items():
                    taken = min(left, max(0, memory_mb) // spec.memory_mb)
                    others[name] = _Free(lease, memory_mb - taken * spec.memory_mb)
                    left -= taken
                if not left:
                    break
            if left:
                return False
        self._free = others
        return True

    def _asked_for(self, load: NodeReport) -> Iterator[tuple[VersionSpec, int]]:
        """Of a version that is no more there is nothing to be moved."""
        for function, versions in counts(load).items():
            for version, there in versions.items():
                spec = self._specs(function, version)
                if spec is not None and (count := there.ready + there.starting):
                    yield spec, count
