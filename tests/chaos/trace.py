"""``make trace``: an hour of real rates, compressed in time, goes through; nothing is lost and no service grows.

The rates are those of 20 Azure functions (`trace_rates.json`), minute by minute. Time runs ``--speed`` times faster, so
handlers are that much shorter too. Queue triggers are durable calls here, all others events.
"""

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.acceptance import outside
from tests.acceptance.conftest import Platform
from tests.chaos.functions import Event, Function, on
from tests.chaos.platforms import single
from tests.chaos.publisher import Published, publish
from tests.chaos.verdict import Verdict, judge
from tests.chaos.witness import Witness, witness

RATES = Path(__file__).with_name("trace_rates.json")
SETTLE_S = 120.0
WARM = 0.15  # of the time, until instances are there and caches are full
GROWTH, GROWTH_MB = 1.15, 8.0  # from the first sample after that to the last: noise of allocators, no more
NATS_KB = 1.0  # of nats-server's for each event: it remembers ids for two minutes, and indexes what its streams keep

_HANDLER = """
def handler(event, context):
    time.sleep(event["s"])
    tell(context.function_name, event["id"])
"""

Memory = Mapping[str, float]  # service → MB


@dataclass(frozen=True)
class TracedEvent(Event):
    seconds: float = 0.0  # that its handler takes

    @property
    def payload(self) -> bytes:
        return json.dumps({"id": self.id, "s": self.seconds}).encode()


@dataclass(frozen=True)
class Rates:
    name: str
    trigger: str
    median_ms: float
    per_minute: list[int]

    def function(self) -> Function:
        triggers = [] if self.trigger == "queue" else on(f"trace.{self.name}")
        return Function(self.name, _HANDLER, {"triggers": triggers, "max_instances": 16})

    @property
    def subject(self) -> str:
        return f"async.{self.name}" if self.trigger == "queue" else f"event.trace.{self.name}"


@dataclass(frozen=True)
class Result:
    verdict: Verdict
    seconds: float
    memory: list[Memory]

    @property
    def growing(self) -> list[str]:
        return growing(self.memory, self.verdict.acknowledged)


def read_rates() -> list[Rates]:
    rows = json.loads(RATES.read_text())["functions"]
    return [Rates(f"trace-{r['function']}", r["trigger"], r["median_ms"], r["per_minute"]) for r in rows]


def timed(rates: Sequence[Rates], *, minutes: int, speed: float) -> list[tuple[float, Event]]:
    """Each event with its moment: at random within its minute, the same each time."""
    return sorted(_moments(rates, random.Random(0), minutes, speed), key=lambda pair: pair[0])


def _moments(rates: Sequence[Rates], rng: random.Random, minutes: int, speed: float) -> Iterator[tuple[float, Event]]:
    for rate in rates:
        for minute, count in enumerate(rate.per_minute[:minutes]):
            for number in range(count):
                identity = f"{rate.name}-{minute}-{number}"
                moment = 60 * (minute + rng.random()) / speed
                yield moment, TracedEvent(identity, rate.subject, (rate.name,), seconds=rate.median_ms / 1000 / speed)


def growing(memory: Sequence[Memory], events: int) -> list[str]:
    """The services that have more at the end than once they were warm. A service that was started anew is no leak."""
    warm, end = memory[_warm(memory)], memory[-1]
    kept_mb = {"nats": NATS_KB * events / 1024}
    return [name for name, mb in end.items() if mb > GROWTH * warm.get(name, mb) + GROWTH_MB + kept_mb.get(name, 0.0)]


def _warm(memory: Sequence[Memory]) -> int:
    return max(1, round(len(memory) * WARM))


async def replay(platform: Platform, *, minutes: int, speed: float, samples: int = 20) -> Result:
    await outside.until(lambda: "scaler" in _resident(platform))  # it starts last, when all others are ready
    rates, published, memory = read_rates(), Published(), [_resident(platform)]
    pairs = timed(rates, minutes=minutes, speed=speed)
    async with witness() as told, outside.client(platform.nats) as client:
        for rate in rates:
            function = rate.function()
            settings = function.deployable(told.port)
            await asyncio.to_thread(outside.deploy, platform, function.name, function.source, **settings)
        started = time.monotonic()
        sampler = asyncio.create_task(_sample(platform, memory, 60 * minutes / speed / samples))
        try:
            await publish(client, pairs, published)
            verdict = await _settled([event for _, event in pairs], published, told)
        finally:
            sampler.cancel()
        return Result(verdict, time.monotonic() - started, [*memory, _resident(platform)])


async def _settled(events: list[Event], published: Published, told: Witness) -> Verdict:
    deadline = time.monotonic() + SETTLE_S
    while True:
        verdict = judge(events, published.acknowledged, told.seen, told.first, ())
        if not verdict.missing or time.monotonic() > deadline:
            return verdict
        await asyncio.sleep(1)


async def _sample(platform: Platform, memory: list[Memory], every_s: float) -> None:
    while True:
        await asyncio.sleep(every_s)
        memory.append(_resident(platform))


def _resident(platform: Platform) -> Memory:
    services: list[dict[str, Any]] = platform.services()
    return {entry["name"]: psutil.Process(entry["pid"]).memory_info().rss / 2**20 for entry in services}


def describe(result: Result) -> str:
    verdict, memory = result.verdict, result.memory
    moments = {"at rest": 0, "warm": _warm(memory), "middle": len(memory) // 2, "end": -1}
    lines = [
        f"{verdict.acknowledged} events acknowledged and handled in {result.seconds:.0f} s: "
        f"{len(verdict.missing)} missing, {verdict.twice} twice",
        f"{'MB':<10}" + "".join(f"{moment:>9}" for moment in moments),
    ]
    for name in memory[0]:
        lines.append(f"{name:<10}" + "".join(f"{memory[index].get(name, 0):>9.1f}" for index in moments.values()))
    return "\n".join([*lines, *(f"{name} grows" for name in result.growing)])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.trace", description=__doc__)
    parser.add_argument("--minutes", type=int, default=60, help="of the trace")
    parser.add_argument("--speed", type=float, default=30, help="how much faster its time runs")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mayfly-trace-") as folder, single(Path(folder)) as platform:
        result = asyncio.run(replay(platform, minutes=options.minutes, speed=options.speed))
    print(describe(result))
    return 1 if result.verdict.missing or result.growing else 0


if __name__ == "__main__":
    sys.exit(main())
