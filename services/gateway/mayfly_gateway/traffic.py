"""What functions have to do, put together from reports: what is so now, and what happened in the last seconds."""

from collections import defaultdict
from collections.abc import Iterable, Mapping

import msgspec

from mayfly_gateway.reports import Recent
from mayfly_proto import records


class FunctionTraffic(msgspec.Struct, frozen=True, kw_only=True):
    """One row of ``mayfly top``. "Lately" is in the last ten seconds, or since the gateway has heard of it."""

    function: str
    ready: int = 0  # instances, those that are busy too
    busy: int = 0
    starting: int = 0
    in_flight: int = 0  # calls that run
    queued: int = 0  # calls that wait at the router
    backlog: int = 0  # events and durable calls that wait in streams
    rate: float | None = None  # calls a second, lately; null: two reports are needed
    p50_ms: float | None = None  # from arrival to the end, of the last calls; null: of none yet
    p99_ms: float | None = None
    cold_percent: float | None = None  # of the calls, lately; null: there were none
    errors: int = 0  # lately
    throttled: int = 0  # lately: answered 429
    blocked: int = 0  # instances that found no place


def rows(nodes: Iterable[records.NodeLoad], routers: Iterable[Recent]) -> list[FunctionTraffic]:
    """Busiest first."""
    instances = _instances(nodes)
    found: dict[str, FunctionTraffic] = {}
    for before, now, seconds in routers:
        for name, load in now.items():
            row = _row(name, before.get(name), load, seconds, instances.get(name, records.VersionLoad()))
            # Two name it while it changes hands: who has more to do has it.
            if name not in found or _weight(row) > _weight(found[name]):
                found[name] = row
    for name, counts in instances.items():
        if name not in found:
            found[name] = FunctionTraffic(function=name, ready=counts.ready, busy=counts.busy, starting=counts.starting)
    return sorted(found.values(), key=lambda row: (-(row.rate or 0), -row.ready, row.function))


def _instances(nodes: Iterable[records.NodeLoad]) -> Mapping[str, records.VersionLoad]:
    """Of each function, on all nodes and of all versions."""
    sums: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    for node in nodes:
        for function, versions in node.instances.items():
            for each in versions.values():
                counts = sums[function]
                counts[0] += each.ready
                counts[1] += each.busy
                counts[2] += each.starting
    return {
        name: records.VersionLoad(ready=ready, busy=busy, starting=starting)
        for name, (ready, busy, starting) in sums.items()
    }


def _row(
    name: str,
    before: records.FunctionLoad | None,
    now: records.FunctionLoad,
    seconds: float,
    instances: records.VersionLoad,
) -> FunctionTraffic:
    before = before or now  # what it counted before it was heard of first is not of late
    calls, cold = _grown(before.calls, now.calls), _grown(before.cold, now.cold)
    return FunctionTraffic(
        function=name,
        ready=instances.ready,
        busy=instances.busy,
        starting=max(instances.starting, now.starting),
        in_flight=now.in_flight,
        queued=now.queued,
        backlog=now.backlog,
        rate=round(calls / seconds, 1) if seconds else None,
        p50_ms=round(now.p50_ms, 1) or None,
        p99_ms=round(now.p99_ms, 1) or None,
        cold_percent=round(min(100 * cold / calls, 100), 1) if calls else None,
        errors=_grown(before.errors, now.errors),
        throttled=_grown(before.throttled, now.throttled),
        blocked=now.blocked,
    )


def _grown(before: int, now: int) -> int:
    """Of a counter that begins again at 0 when its router does."""
    return now - before if now >= before else now


def _weight(row: FunctionTraffic) -> tuple[float, int]:
    return (row.rate or 0, row.queued + row.in_flight)
