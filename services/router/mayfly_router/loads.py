"""What a router says about its functions once a second."""

from collections.abc import Iterable

import msgspec

from mayfly_proto import records
from mayfly_proto.records import FunctionLoad
from mayfly_router.durations import Durations
from mayfly_router.function import Function
from mayfly_router.pool import Pool

NO_PAUSES: tuple[dict[str, int], dict[str, int]] = ({}, {})


class Loads:
    """Of each function that has more than nothing what was found when it was looked at last, in JSON."""

    def __init__(self) -> None:
        self.current: dict[str, msgspec.Raw] = {}
        self._once: dict[str, FunctionLoad] = {}

    def tell(self, function: str, load: FunctionLoad) -> None:
        self.current[function] = msgspec.Raw(records.encode(load))
        if load.idle_gaps or load.further_gaps or not is_busy(load):
            self._once[function] = load
        else:
            self._once.pop(function, None)

    def drop(self, function: str) -> None:
        self.current.pop(function, None)
        self._once.pop(function, None)

    def told(self) -> None:
        """All of it has been told: pauses, and that nothing is there any more, are not told again."""
        once, self._once = self._once, {}
        for function, load in once.items():
            if is_busy(load):
                self.tell(function, msgspec.structs.replace(load, idle_gaps={}, further_gaps={}))
            else:
                del self.current[function]

    def __repr__(self) -> str:
        return f"<Loads of {len(self.current)} functions>"


def function_load(
    function: Function, now: float, pauses: tuple[dict[str, int], dict[str, int]] = NO_PAUSES
) -> FunctionLoad:
    """``pauses``, by `Gaps.report`, are told once."""
    pools = function.pools.values()
    in_flight = ready = starting = cold = 0
    for pool in pools:
        in_flight += pool.busy
        ready += pool.ready
        starting += len(pool.starts)
        cold += pool.starts.succeeded
    quantiles = Durations.together([pool.durations for pool in pools if pool.durations])
    current = function.current
    idle_gaps, further_gaps = pauses
    return FunctionLoad(
        queued=function.waiting,
        backlog=function.upstream,
        in_flight=in_flight,
        ready=ready,
        starting=starting,
        calls=function.calls,
        cold=cold,
        errors=function.errors,
        throttled=function.throttled,
        p50_ms=_ms(quantiles.p50_s),
        p99_ms=_ms(quantiles.p99_s),
        service_ms=_ms(current.service_s) if current is not None else 0.0,
        cold_ms=_ms(current.starts.cold_s) if current is not None and current.starts.succeeded else 0.0,
        oldest_ms=_oldest_ms(pools, now),
        blocked=function.blocked,
        idle_gaps=idle_gaps,
        further_gaps=further_gaps,
    )


def is_busy(load: FunctionLoad) -> bool:
    """There is something that waits, runs, is ready or is coming."""
    return bool(load.queued or load.backlog or load.in_flight or load.ready or load.starting)


def _oldest_ms(pools: Iterable[Pool], now: float) -> float:
    return _ms(max((now - pool.queue.since for pool in pools if pool.queue), default=0.0))


def _ms(seconds: float | None) -> float:
    return round(1000 * (seconds or 0.0), 3)
