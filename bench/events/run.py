"""The part ``events`` of `make bench`."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import quote

from events import mayfly, peers, processes
from events.counter import Counter
from events.measures import Burst, Kind, Side, burst, latencies_us, recovery
from system import System

ROUNDS = 3
BURST = 4_000
SINGLES = 170  # a round
DYING = {"events": 600, "done_first": 200, "sleep_s": 0.05}
WAIT_S = 40.0  # JetStream hands out again after 30


async def measure(system: System) -> dict[str, Any]:
    """Blocks: what is measured are other processes."""
    with _started(system) as (counter, sides, left_out):
        for side in sides:
            latencies_us(counter, side, 20)
            burst(counter, side, 500)
        bursts = [{side.name: burst(counter, side, BURST) for side in sides} for _ in range(ROUNDS)]
        singles = [{side.name: latencies_us(counter, side, SINGLES) for side in sides} for _ in range(ROUNDS)]
        recovered = _recover(counter, sides)
    kinds = {side.name: side.kind for side in sides}
    return {
        "peers left out": ", ".join(left_out) or "none",
        f"burst of {BURST}": {name: _burst_figures([each[name] for each in bursts]) for name in kinds},
        "throughput ratio to the best peer": _throughput_ratios(bursts, kinds),
        "publish to handler start": {name: _latency_figures(name, singles) for name in kinds},
        "recovery from kill -9": recovered,
    }


@contextmanager
def _started(system: System) -> Iterator[tuple[Counter, list[Side], list[str]]]:
    """Everybody, started; and the names of those who could not be."""
    if not processes.PEERS_BIN.is_dir():
        raise FileNotFoundError(f"{processes.PEERS_BIN} is not there: `make bench` makes it")
    with tempfile.TemporaryDirectory(prefix="mayfly-bench-") as directory, Counter() as counter:
        folder = Path(directory)
        nats = system.nats.replace("//", f"//{quote(system.user)}:{quote(system.password)}@")
        environment = processes.environment(BENCH_COUNTER=str(counter.port), BENCH_NATS=nats)
        brokers = {peers.NATS: system.services()["nats"]}
        with processes.redis(folder / "redis") as redis:
            if redis:
                environment["BENCH_REDIS"], brokers[peers.REDIS] = redis
            with (
                mayfly.started(system, counter.port, environment) as ours,
                peers.started(folder, environment, brokers) as theirs,
            ):
                left_out = [recipe.name for recipe in peers.RECIPES if recipe.broker not in brokers]
                yield counter, [*ours, *theirs], left_out


def _burst_figures(bursts: Sequence[Burst]) -> dict[str, Any]:
    rates = [one.rate for one in bursts]
    cost = {name: median(one.cpu_us[name] for one in bursts) for name in bursts[0].cpu_us}
    return {
        "events_per_s": median(rates),
        "slowest_round": min(rates),
        "fastest_round": max(rates),
        "cpu_us_per_event": cost | {"all": sum(cost.values())},
    }


def _throughput_ratios(bursts: Sequence[dict[str, Burst]], kinds: dict[str, Kind]) -> dict[str, float]:
    """Medians over the rounds; each ratio is taken within its round."""
    ratios = {}
    for what, rivals in (("as they come", {Kind.PEER}), ("tuned too", {Kind.PEER, Kind.TUNED_PEER})):
        best = [max(each[name].rate for name in kinds if kinds[name] in rivals) for each in bursts]
        for ours in (name for name in kinds if kinds[name] is Kind.OURS):
            each_round = [each[ours].rate / rate for each, rate in zip(bursts, best, strict=True)]
            ratios[f"{ours}, peers {what}"] = median(each_round)
    return ratios


def _latency_figures(name: str, rounds: Sequence[dict[str, list[float]]]) -> dict[str, float]:
    everything = sorted(latency for each in rounds for latency in each[name])
    return {
        "p50_us": median(everything),
        "p99_us": everything[int(len(everything) * 0.99)],
        "p50_ratio_to_raw": median(median(each[name]) / median(each[peers.RAW]) for each in rounds),
    }


def _recover(counter: Counter, sides: Sequence[Side]) -> dict[str, Any]:
    """Mayfly by itself; then the peers together, as there is little to do but to wait."""
    ours = [side for side in sides if side.name == mayfly.MANY]
    tuned = {side.name for side in sides if side.kind is Kind.TUNED_PEER}
    as_many_at_once = [
        side for side in sides
        if side.kind is Kind.TUNED_PEER or (side.kind is Kind.PEER and side.name + peers.TUNED not in tuned)
    ]  # fmt: skip
    results = {}
    for group in (ours, as_many_at_once):
        if group:
            results |= recovery(counter, group, **DYING, wait_s=WAIT_S)
    return {name: asdict(result) for name, result in results.items()}
