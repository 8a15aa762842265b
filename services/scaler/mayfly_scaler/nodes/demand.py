"""What the load asks for, in nodes of the kind that the provider gives."""

from collections import deque
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from mayfly_proto.records import NodeLease
from mayfly_proto.reports import NodeReport
from mayfly_scaler.told import counts

EVICTED_LIMIT = 0.01  # of the starts: above it, idle instances go that are needed again at once
EVICTED_WINDOW_S = 60.0

_NO_LABELS: Mapping[str, str] = {}


class Kind(NamedTuple):
    """Of a node that the provider gives."""

    memory_mb: float
    cores: float
    labels: Mapping[str, str] = _NO_LABELS


class Demand(NamedTuple):
    """Each in nodes."""

    memory: float  # promised to instances
    blocked: float  # memory of instances that find no place
    evicted: float  # memory of idle instances that are missed
    cpu: float

    @property
    def total(self) -> float:
        return max(self.memory + self.blocked + self.evicted, self.cpu)

    def figures(self) -> dict[str, float]:
        return {name: round(value, 3) for name, value in self._asdict().items()} | {"demand": round(self.total, 3)}


class Waiting(NamedTuple):
    """Instances of one version that found no place."""

    instances: int
    memory_mb: int
    labels: Mapping[str, str] = _NO_LABELS  # that their node must have

    def helped_by(self, kind: Kind) -> bool:
        """Whether one more node would have them."""
        return self.memory_mb <= kind.memory_mb and self.labels.items() <= kind.labels.items()


class Seen(NamedTuple):
    lease: NodeLease
    load: NodeReport


def measure(nodes: Iterable[Seen], waiting: Iterable[Waiting], kind: Kind, *, cpu: bool) -> Demand:
    """``cpu``: whether a further node has processors of its own."""
    seen = list(nodes)
    return Demand(
        memory=sum(node.load.memory_used_mb for node in seen) / kind.memory_mb,
        blocked=sum(w.instances * w.memory_mb for w in waiting if w.helped_by(kind)) / kind.memory_mb,
        evicted=0.0,
        cpu=sum(node.load.cpu_percent / 100 * node.lease.cores for node in seen) / kind.cores if cpu else 0.0,
    )


class _Sum(NamedTuple):
    at: float
    starts: int
    evicted: int
    evicted_mb: float


class Evictions:
    """Notices that idle instances are thrown out although they are needed again at once: memory is short before any
    call is refused."""

    def __init__(self) -> None:
        self._last: dict[str, NodeReport] = {}
        self._total = _Sum(0.0, 0, 0, 0.0)
        self._sums: deque[_Sum] = deque()

    def observe(self, now: float, loads: Iterable[NodeReport]) -> None:
        _, starts, evicted, evicted_mb = self._total
        last, self._last = self._last, {load.node: load for load in loads}
        for load in self._last.values():
            before = last.get(load.node)
            if before is None or before.epoch != load.epoch:
                continue
            starts += load.starts - before.starts
            if more := load.evicted - before.evicted:
                evicted += more
                evicted_mb += more * _instance_mb(load)
        self._total = _Sum(now, starts, evicted, evicted_mb)
        self._sums.append(self._total)
        while len(self._sums) > 1 and self._sums[1].at <= now - EVICTED_WINDOW_S:
            self._sums.popleft()

    def missed(self, kind: Kind) -> float:
        """In nodes; one at most, for the same memory is thrown out again and again."""
        if not self._sums:
            return 0.0
        first, last = self._sums[0], self._sums[-1]
        evicted = last.evicted - first.evicted
        if last.at - first.at < EVICTED_WINDOW_S or evicted <= EVICTED_LIMIT * (last.starts - first.starts):
            return 0.0
        return min(1.0, (last.evicted_mb - first.evicted_mb) / kind.memory_mb)

    def forget(self) -> None:
        """Nodes were added: what was missed before says nothing of what will be."""
        self._sums.clear()


def _instance_mb(load: NodeReport) -> float:
    """Mean of what is promised to one."""
    count = sum(v.ready + v.starting for versions in counts(load).values() for v in versions.values())
    return load.memory_used_mb / count if count else 0.0
