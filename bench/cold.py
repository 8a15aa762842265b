"""Cold starts: from the caller's request to its reply with no instance running, against ``python -c pass``."""

import asyncio
import os
import sys
import time
from statistics import median
from typing import Any

import nats

from load import stock_client
from system import System

SOURCE = """
def handler(event, context):
    return {"hello": event["name"]}
"""
SLEEPER = """
import time

def handler(event, context):
    time.sleep(0.1)
"""
HEADERS_COLD = "Mayfly-Start"


async def measure(system: System, rounds: int = 40) -> dict[str, Any]:
    client = await stock_client(system)
    try:
        return {
            "cold_start": await cold_starts(system, client, rounds),
            "first_call_after_deploy_ms": await first_calls(system, client, 8),
            "burst_0_to_200": await burst(system, client, 200),
        }
    finally:
        await client.close()


async def cold_starts(system: System, client: nats.NATS, rounds: int) -> dict[str, float]:
    """The code is on the node and the instance is gone before each call: ``keep_alive = 0`` sees to that."""
    system.deploy("bench-cold", SOURCE, keep_alive=0)
    await client.request("fn.bench-cold", b'{"name": "x"}', timeout=10)
    cold, python = [], []
    for _ in range(rounds):
        await none_left(system, "bench-cold")
        started = time.perf_counter()
        reply = await client.request("fn.bench-cold", b'{"name": "x"}', timeout=10)
        cold.append((time.perf_counter() - started) * 1e3)
        assert reply.headers is not None
        assert reply.headers.get(HEADERS_COLD) == "cold", (reply.headers, reply.data)
        started = time.perf_counter()
        os.waitpid(os.posix_spawn(sys.executable, [sys.executable, "-c", "pass"], os.environ), 0)
        python.append((time.perf_counter() - started) * 1e3)
    return {
        "p50_ms": median(cold),
        "p90_ms": sorted(cold)[int(rounds * 0.9)],
        "python_pass_p50_ms": median(python),
        "ratio": median(cold) / median(python),
    }


async def none_left(system: System, function: str) -> None:
    deadline = time.monotonic() + 10
    while any(instance["function"] == function for instance in await asyncio.to_thread(system.instances)):
        if time.monotonic() > deadline:
            raise TimeoutError(f"instances of {function} did not leave")
        await asyncio.sleep(0.01)


async def first_calls(system: System, client: nats.NATS, rounds: int) -> float:
    times = []
    for number in range(rounds):
        await asyncio.to_thread(system.deploy, f"bench-first-{number}", SOURCE)
        started = time.perf_counter()
        await client.request(f"fn.bench-first-{number}", b'{"name": "x"}', timeout=10)
        times.append((time.perf_counter() - started) * 1e3)
    return median(times)


async def burst(system: System, client: nats.NATS, calls: int) -> dict[str, float]:
    """Calls of 0.1 s each, all at once, to a function with no instance."""
    system.deploy("bench-burst", SLEEPER, max_instances=calls, memory=64, timeout=30)
    started = time.perf_counter()
    await asyncio.gather(*(client.request("fn.bench-burst", b"", timeout=30) for _ in range(calls)))
    seconds = time.perf_counter() - started
    instances = [row for row in await asyncio.to_thread(system.instances) if row["function"] == "bench-burst"]
    return {"calls": calls, "last_reply_s": seconds, "instances": len(instances)}
