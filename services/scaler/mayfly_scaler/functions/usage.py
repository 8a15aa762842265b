"""What the nodes measured of each function's instances, put together."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from mayfly_proto.reports import NodeReport
from mayfly_scaler.told import counts


class Usage(NamedTuple):
    """Of one version. Totals are over the instances measured."""

    instances: int
    cpu_percent: float  # of one core
    private_mb: float


NONE = Usage(0, 0.0, 0.0)


def survey(reports: Iterable[NodeReport], current: Mapping[str, int]) -> dict[str, Usage]:
    """By function, of its current version. Nodes that have not measured a version's memory yet do not count."""
    sums: dict[str, list[float]] = {}  # what `Usage` says; lists, as this goes through all instances that there are
    for report in reports:
        for function, versions in counts(report).items():
            version = versions.get(current.get(function, 0))
            if version is None or not version.private_mb:
                continue
            ready = version.ready
            total = sums.get(function)
            if total is None:
                total = sums[function] = [0, 0.0, 0.0]
            total[0] += ready
            total[1] += version.cpu_percent * ready
            total[2] += version.private_mb * ready
    return {
        function: Usage(int(instances), cpu_percent, private_mb)
        for function, (instances, cpu_percent, private_mb) in sums.items()
        if instances
    }
