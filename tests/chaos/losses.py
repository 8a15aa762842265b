"""How long the death of a worker, or of the router that owns a function, is felt: measured by clients outside."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import nats
import psutil

from tests.acceptance import outside
from tests.acceptance.conftest import Platform, running
from tests.chaos.pairs import Pairs, operating, pairs

IN_FLIGHT = 100  # on each of two nodes, half of them of an idempotent function
SURE, UNSURE = "losses-sure", "losses-unsure"
FUNCTIONS = tuple(f"losses-{number}" for number in range(8))  # shared by two routers
_SLOW = "import time\n\ndef handler(event, context):\n    time.sleep(event)\n    return event\n"
_QUICK = "def handler(event, context):\n    return event\n"
_RUN_S = 3.0
_EVERY_S = 0.01


@dataclass(kw_only=True)
class WorkerLoss:
    on_it: int  # calls in flight on the node that died
    codes: dict[str, Counter[int]]  # function → answers
    told_s: list[float]  # from the kill to each 502

    @property
    def told_median_s(self) -> float:
        return median(self.told_s)


@dataclass(kw_only=True)
class RouterLoss:
    gaps_s: dict[str, float] = field(default_factory=dict)  # function → longest time between two answers


@contextmanager
def two_nodes(folder: Path) -> Iterator[Platform]:
    with running(folder, "--nodes", "2", "--node-memory", "4096") as platform:
        yield platform


async def lose_worker(platform: Platform) -> WorkerLoss:
    for name in (SURE, UNSURE):
        outside.deploy(
            platform, name, _SLOW, memory=32, timeout=20, idempotent=name == SURE, activation="eager", keep_alive=60
        )
    answers: dict[str, list[tuple[float, outside.Answer]]] = {SURE: [], UNSURE: []}
    async with outside.client(platform.nats) as client:
        await _together(client, 0.5, answers)  # so that every instance is there
        for found in answers.values():
            found.clear()
        calls = asyncio.create_task(_together(client, _RUN_S, answers))
        await outside.until(lambda: _busy(platform).total() == 2 * IN_FLIGHT)
        on_it = _busy(platform)["n1"]
        killed = time.monotonic()
        outside.kill_9(_worker(platform, "n1"))
        await calls
    return WorkerLoss(
        on_it=on_it,
        codes={name: Counter(answer.code for _, answer in found) for name, found in answers.items()},
        told_s=[at - killed for at, answer in answers[UNSURE] if answer.code == 502],
    )


async def _together(client: nats.NATS, seconds: float, answers: dict[str, list[tuple[float, outside.Answer]]]) -> None:
    async def one(name: str) -> None:
        answer = await outside.call(client, name, b"%g" % seconds, timeout=60)
        answers[name].append((time.monotonic(), answer))

    await asyncio.gather(*(one(name) for name in answers for _ in range(IN_FLIGHT)))


def _busy(platform: Platform) -> Counter[str]:
    return Counter(row["node"] for row in outside.instances(platform) if row["state"] == "busy")


def _worker(platform: Platform, node: str) -> int:
    pids = [entry["pid"] for entry in platform.services() if entry["name"] == "worker"]
    return next(pid for pid in pids if psutil.Process(pid).environ()["MAYFLY_WORKER_NODE"] == node)


@contextmanager
def two_of_each(folder: Path) -> Iterator[Pairs]:
    with pairs(folder) as both:
        yield both


async def lose_router(both: Pairs) -> RouterLoss:
    platform, loss, stop = both.platform, RouterLoss(), asyncio.Event()
    async with operating(platform) as operator, outside.client(platform.nats) as client:
        await both.ready(operator)
        for name in FUNCTIONS:
            outside.deploy(platform, name, _QUICK, memory=32)
        callers = [asyncio.create_task(_call_on(client, name, loss, stop)) for name in FUNCTIONS]
        await outside.until(lambda: len(loss.gaps_s) == len(FUNCTIONS))
        before = outside.pid_of(platform, "router")
        outside.kill_9(before)
        await outside.until(lambda: outside.pid_of(platform, "router") != before)
        await both.ready(operator)
        stop.set()
        await asyncio.gather(*callers)
    return loss


async def _call_on(client: nats.NATS, name: str, loss: RouterLoss, stop: asyncio.Event) -> None:
    """One after the other. One that was in the router when it died has no answer: none is waited for long."""
    last = 0.0
    while not stop.is_set():
        answer = await outside.call(client, name, b"1", timeout=0.5)
        now = time.monotonic()
        if answer.code == 200:
            loss.gaps_s[name] = max(loss.gaps_s.get(name, 0.0), now - (last or now))
            last = now
        await asyncio.sleep(_EVERY_S)
