"""What is known of nodes, put together: their leases, what they reported last, and which are to be empty and why."""

from collections.abc import Iterable, Mapping

import msgspec

from mayfly_proto import records, states


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """One row of ``mayfly nodes``. Null is what the node has not said yet."""

    node: str
    state: str  # up, draining or empty
    cores: int
    cpu_percent: float | None  # of what the node may use
    memory_mb: int  # for instances
    memory_used_mb: int | None  # promised to instances
    ready: int | None  # instances, those that are busy too
    busy: int | None
    starting: int | None
    draining: bool  # it takes no new instances
    drain_by: str  # operator or scaler; "" when it is not to be empty
    drain_why: str
    labels: str  # "gpu=yes, zone=a"
    isolation: str  # the levels it gives, separated by commas
    version: str
    started: str
    heard_s: float | None  # seconds since its last report, which comes once a second
    epoch: int


def rows(
    leases: Iterable[records.NodeLease],
    targets: Mapping[str, records.NodeTarget],
    reports: Mapping[str, tuple[records.NodeLoad, float]],
) -> list[Node]:
    """By name. A report of a former life of the node is none."""
    return sorted(
        (_row(lease, targets.get(lease.node), *_of_this_life(lease, reports)) for lease in leases),
        key=lambda row: row.node,
    )


def _of_this_life(
    lease: records.NodeLease, reports: Mapping[str, tuple[records.NodeLoad, float]]
) -> tuple[records.NodeLoad | None, float | None]:
    load, heard_s = reports.get(lease.node, (None, None))
    return (load, heard_s) if load is not None and load.epoch == lease.epoch else (None, None)


def _row(
    lease: records.NodeLease, target: records.NodeTarget | None, load: records.NodeLoad | None, heard_s: float | None
) -> Node:
    counts = [each for versions in load.instances.values() for each in versions.values()] if load else []
    said = load.state if load else states.Node.UP.value
    return Node(
        node=lease.node,
        # The lease says it first: a report may be a second old.
        state=states.Node.DRAINING.value if lease.draining and said == states.Node.UP.value else said,
        cores=lease.cores,
        cpu_percent=round(load.cpu_percent, 1) if load else None,
        memory_mb=lease.memory_mb,
        memory_used_mb=load.memory_used_mb if load else None,
        ready=sum(each.ready for each in counts) if load else None,
        busy=sum(each.busy for each in counts) if load else None,
        starting=sum(each.starting for each in counts) if load else None,
        draining=lease.draining,
        drain_by=target.by if target else "",
        drain_why=target.why if target else "",
        labels=", ".join(f"{name}={value}" for name, value in sorted(lease.labels.items())),
        isolation=", ".join(lease.isolation),
        version=lease.version,
        started=lease.started,
        heard_s=round(heard_s, 1) if heard_s is not None else None,
        epoch=lease.epoch,
    )
