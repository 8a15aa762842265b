"""What a router says about one function once a second."""

from collections.abc import Iterable
from itertools import chain

from mayfly_proto.records import FunctionLoad
from mayfly_router.function import Function
from mayfly_router.pool import Pool


def function_load(function: Function, now: float) -> FunctionLoad:
    """Without its pauses: those are told once."""
    pools = function.pools.values()
    durations = sorted(chain.from_iterable(pool.durations_s for pool in pools))
    current = function.current
    return FunctionLoad(
        queued=function.waiting,
        backlog=function.upstream,
        in_flight=sum(pool.busy for pool in pools),
        ready=sum(pool.ready for pool in pools),
        starting=sum(len(pool.starts) for pool in pools),
        calls=function.calls,
        cold=sum(pool.starts.succeeded for pool in pools),
        errors=function.errors,
        p50_ms=_quantile_ms(durations, 0.50),
        p99_ms=_quantile_ms(durations, 0.99),
        service_ms=_ms(current.service_s) if current is not None else 0.0,
        cold_ms=_ms(current.starts.cold_s) if current is not None and current.starts.succeeded else 0.0,
        oldest_ms=_oldest_ms(pools, now),
        blocked=function.blocked,
    )


def _oldest_ms(pools: Iterable[Pool], now: float) -> float:
    return _ms(max((now - pool.queue.since for pool in pools if pool.queue), default=0.0))


def _quantile_ms(durations_s: list[float], quantile: float) -> float:
    """The smallest that so many are not above; 0 when there are none."""
    return _ms(durations_s[min(int(quantile * len(durations_s)), len(durations_s) - 1)]) if durations_s else 0.0


def _ms(seconds: float | None) -> float:
    return round(1000 * (seconds or 0.0), 3)
