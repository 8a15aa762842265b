"""The part ``scale-trace`` of `make bench`: the scaler's windows against fixed ones, on the whole trace.

Two prices of a cold start: a plain process, 250 ms and all of the function's memory; and Mayfly's fork, measured
(`cold` and `footprint` of this bench), 5 ms and the pages that an instance does not share.
"""

import asyncio
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from typing import Any

from mayfly_proto.records import Package, VersionSpec
from replay import trace
from replay.keeping import Fixed, Keeping, Scaled
from replay.pool import Outcome, Pool
from replay.trace import Traced
from system import System

MINUTES = 480


@dataclass(frozen=True)
class Price:
    """Of a cold start, and of an instance's memory as a part of what its function has as a plain process."""

    cold_s: float
    memory: float
    least_mb: float = 0.0

    def memory_mb(self, function: Traced) -> float:
        return max(self.least_mb, self.memory * function.memory_mb)


PLAIN = Price(0.25, 1.0)
FORK = Price(0.005, 0.15, 8.0)
SCALER = None  # in place of fixed seconds

Compared = Sequence[tuple[Price, float | None]]


def outcome(functions: Iterable[Traced], minutes: int, price: Price, fixed_s: float | None) -> Outcome:
    return sum((_play(function, minutes, price, fixed_s) for function in functions), Outcome())


def compare(functions: Sequence[Traced], minutes: int, compared: Compared) -> list[Outcome]:
    """On all cores; the busiest function is most of the work."""
    parts = [functions[:1], functions[1:]]
    work = [(part, price, fixed_s) for part in parts for price, fixed_s in compared]
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as processes:
        results = list(processes.map(partial(_outcome, minutes=minutes), work))
    return [first + rest for first, rest in zip(results, results[len(compared) :], strict=False)]


async def measure(system: System) -> dict[str, Any]:
    """Needs nothing of the platform that runs."""
    return await asyncio.to_thread(measure_trace)


def measure_trace() -> dict[str, Any]:
    compared: Compared = [(PLAIN, 600.0), (PLAIN, 120.0), (PLAIN, SCALER), (FORK, 120.0), (FORK, SCALER)]
    plain_600, plain_120, plain, fork_120, fork = compare(trace.read(), MINUTES, compared)
    return {
        "calls": plain.calls,
        "plain process (250 ms)": {
            "fixed 600 s": _figures(plain_600, plain_600),
            "fixed 120 s": _figures(plain_120, plain_600),
            "scaler": _figures(plain, plain_600),
        },
        "fork (5 ms)": {"fixed 120 s": _figures(fork_120, fork_120), "scaler": _figures(fork, fork_120)},
    }


def _outcome(work: tuple[Sequence[Traced], Price, float | None], minutes: int) -> Outcome:
    functions, price, fixed_s = work
    return outcome(functions, minutes, price, fixed_s)


def _play(function: Traced, minutes: int, price: Price, fixed_s: float | None) -> Outcome:
    spec = VersionSpec(
        name=function.name,
        version=1,
        runtime="python",
        handler="handler",
        package=Package(sha256="", size=0, format="py", filename=""),
        created="",
        max_instances=1000,
    )
    memory_mb = price.memory_mb(function)
    keeping: Keeping = Scaled(spec, memory_mb) if fixed_s is None else Fixed(fixed_s)
    return Pool(spec, keeping, price.cold_s, memory_mb).play(function.calls(minutes), 60.0 * minutes)


def _figures(outcome: Outcome, reference: Outcome) -> dict[str, Any]:
    return {
        "cold starts": outcome.cold,
        "cold starts, % of calls": 100 * outcome.cold / outcome.calls,
        "calls that waited, %": 100 * outcome.waited / outcome.calls,
        "waited for, s": outcome.wait_s,
        "idle GB": outcome.idle_gbs / (60 * MINUTES),
        "idle memory, of the first": outcome.idle_gbs / reference.idle_gbs,
        "started by a window": outcome.pre_warmed,
        "started by a floor": outcome.floor,
    }
