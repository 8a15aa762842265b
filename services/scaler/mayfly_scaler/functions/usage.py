"""What the nodes measured of each function's instances, put together."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from mayfly_proto.records import NodeLoad


class Usage(NamedTuple):
    """Of one version. Totals are over the instances measured."""

    instances: int
    cpu_percent: float  # of one core
    private_mb: float


NONE = Usage(0, 0.0, 0.0)


def survey(loads: Iterable[NodeLoad], current: Mapping[str, int]) -> dict[str, Usage]:
    """By function, of its current version. Nodes that have not measured a version's memory yet do not count."""
    found: dict[str, Usage] = {}
    for load in loads:
        for function, versions in load.instances.items():
            version = versions.get(str(current.get(function)))
            if version is None or not version.ready or not version.private_mb:
                continue
            before = found.get(function, NONE)
            found[function] = Usage(
                before.instances + version.ready,
                before.cpu_percent + version.cpu_percent * version.ready,
                before.private_mb + version.private_mb * version.ready,
            )
    return found
