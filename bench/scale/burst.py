"""From nothing to 500 instances: as many calls at once of a function that has none, each in an instance of its own,
held until all of them run. In turn with as many forks of a bare process, and with ``python -c pass``, as many at a time
as there are cores: what the machine can do at that moment.

The platform is that of `mayfly up`; times are read in the instances themselves, by the clock that all processes share.
"""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from statistics import median
from typing import Any, NamedTuple

import nats
import psutil

from load import stock_client
from scale import cpu
from scale.stage import BENCH
from system import System, running

CALLS = 500
ROUNDS = 3
HOLD_S = 8.0  # from the first call on; all of them are to run by then
ANSWER_S = 60
GONE_S = 180  # a function with slow cold starts keeps a floor for a while, and starts are slow in a burst
PYTHONS = 100
LOOK_EVERY_S = 0.2
COUNTS = ("failed", "not_in_an_instance_of_its_own")  # the worst round's
MEMORY_MB = 32  # promised to each
NAME = "bench-many"
SOURCE = """
import time

calls = 0

def handler(event, context):
    global calls
    calls += 1
    began = time.monotonic()
    time.sleep(max(0.0, event["until"] - began))
    return {"began": began, "calls": calls}
"""
SERVICES = ("router", "activator", "worker", "nats")  # who have a hand in a start


class Answer(NamedTuple):
    at: float
    began: float  # in the handler
    calls: int  # that its instance had had by then


async def measure(calls: int = CALLS, rounds: int = ROUNDS) -> dict[str, Any]:
    with running("--node-memory", str(2 * calls * MEMORY_MB)) as system:
        client = await stock_client(system)
        try:
            settings = {"max_instances": calls, "memory": MEMORY_MB, "timeout": ANSWER_S, "keep_alive": 2}
            await asyncio.to_thread(system.deploy, NAME, SOURCE, **settings)
            first = await burst(system, client, calls)
            found = [await turn(system, client, calls) for _ in range(rounds)]
        finally:
            await client.close()
    return {
        "calls": calls,
        "the first after a deploy": first,
        "from zero": {name: (max if name in COUNTS else median)(one[name] for one in found) for name in found[0]},
    }


async def turn(system: System, client: nats.NATS, calls: int) -> dict[str, float]:
    figures = await burst(system, client, calls)
    forks, pythons = await asyncio.to_thread(forked, calls), await asyncio.to_thread(started)
    return figures | {
        "forks_a_second": forks["a_second"],
        "fork_cpu_ms": forks["cpu_ms"],
        "pythons_a_second": pythons["a_second"],
        "python_cpu_ms": pythons["cpu_ms"],
        "instances_to_forks": figures["instances_a_second"] / forks["a_second"],
        "instances_to_pythons": figures["instances_a_second"] / pythons["a_second"],
        "cpu_to_fork": figures["cpu_ms_a_start"] / forks["cpu_ms"],
        "cpu_to_python": figures["cpu_ms_a_start"] / pythons["cpu_ms"],
    }


async def burst(system: System, client: nats.NATS, calls: int) -> dict[str, float]:
    await none_left(system)
    before, instances_s = await asyncio.to_thread(system.cpu_s, instances=False), below_the_worker_s(system)
    async with watched(system) as used:
        began = time.monotonic()
        until = began + HOLD_S
        asked = asyncio.gather(*(call(client, until) for _ in range(calls)), return_exceptions=True)
        await asyncio.sleep(until - LOOK_EVERY_S - time.monotonic())
        instances_s = await asyncio.to_thread(below_the_worker_s, system) - instances_s
        answers = await asked
    gone_s = await none_left(system)
    good = [answer for answer in answers if isinstance(answer, Answer)]
    if bad := [answer for answer in answers if not isinstance(answer, Answer)]:
        print(f"{len(bad)} calls failed, as {bad[0]!r}", file=sys.stderr)
    runs = sorted(answer.began - began for answer in good)
    by_then = used[next((at for at in used if at >= began + runs[-1]), max(used))]
    spent = {name: by_then[name] - before[name] for name in SERVICES} | {"instances": instances_s}
    return {
        "failed": len(bad),
        "not_in_an_instance_of_its_own": sum(answer.calls > 1 for answer in good),
        "first_runs_ms": runs[0] * 1e3,
        "half_run_s": runs[len(runs) // 2],
        "99_percent_run_s": runs[len(runs) * 99 // 100],
        "all_run_s": runs[-1],
        "all_answered_after_release_s": max(answer.at for answer in good) - until,
        "none_left_after_s": gone_s,
        "instances_a_second": len(runs) / runs[-1],
        "cpu_ms_a_start": sum(spent.values()) / calls * 1e3,
        **{f"cpu_ms_a_start_{name}": spent_s / calls * 1e3 for name, spent_s in spent.items()},
    }


async def call(client: nats.NATS, until: float) -> Answer:
    reply = await client.request(f"fn.{NAME}", json.dumps({"until": until}).encode(), timeout=ANSWER_S)
    at, said = time.monotonic(), json.loads(reply.data)
    if "error" in said:
        raise RuntimeError(said["error"])
    return Answer(at, said["began"], said["calls"])


@asynccontextmanager
async def watched(system: System) -> AsyncIterator[dict[float, dict[str, float]]]:
    """What the services have used at which moment; instances are left out: it takes long to ask for hundreds."""
    used: dict[float, dict[str, float]] = {}

    async def watch() -> None:
        while True:
            used[time.monotonic()] = await asyncio.to_thread(system.cpu_s, instances=False)
            await asyncio.sleep(LOOK_EVERY_S)

    watching = asyncio.create_task(watch())
    try:
        yield used
    finally:
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching


def below_the_worker_s(system: System) -> float:
    """CPU seconds of all that it started and that lives."""
    spent_s = 0.0
    for process in psutil.Process(system.services()["worker"]).children(recursive=True):
        with suppress(OSError):
            spent_s += cpu.used_s(process.pid)
    return spent_s


async def none_left(system: System) -> float:
    began = time.monotonic()
    async with asyncio.timeout(GONE_S):
        while any(row["function"] == NAME for row in await asyncio.to_thread(system.instances)):
            await asyncio.sleep(LOOK_EVERY_S)
    return time.monotonic() - began


def forked(count: int) -> dict[str, float]:
    """A process of its own forks, and has nothing that would have to be copied."""
    command = [sys.executable, "-m", "scale.forks", str(count)]
    found = json.loads(subprocess.check_output(command, env={**os.environ, "PYTHONPATH": str(BENCH)}))
    return {"a_second": count / found["seconds"], "cpu_ms": found["cpu_s"] / count * 1e3}


def started() -> dict[str, float]:
    """``python -c pass``, from the start to the end of each."""
    at_once, before, began = os.cpu_count() or 1, os.times(), time.monotonic()
    for _ in range(PYTHONS // at_once):
        running = [subprocess.Popen([sys.executable, "-c", "pass"]) for _ in range(at_once)]
        for process in running:
            process.wait()
    took_s, after = time.monotonic() - began, os.times()
    cpu_s = after.children_user - before.children_user + after.children_system - before.children_system
    count = PYTHONS // at_once * at_once
    return {"a_second": count / took_s, "cpu_ms": cpu_s / count * 1e3}
