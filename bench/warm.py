"""A warm call against a raw NATS echo: same server, same client, one after the other in each round."""

import asyncio
import sys
from pathlib import Path
from statistics import median
from typing import Any

from load import Call, lean_call, lean_client, offer, stock_call, stock_client
from system import System

SOURCE = """
def handler(event, context):
    return {"hello": event["name"]}
"""
FUNCTION = "fn.bench-warm"
ECHO = "bench.echo"
INSTANCES = 64


async def measure(system: System, rounds: int = 5, calls: int = 12_000) -> dict[str, Any]:
    system.deploy("bench-warm", SOURCE, max_instances=INSTANCES, activation="eager", timeout=30)
    responder = await asyncio.create_subprocess_exec(
        sys.executable, str(Path(__file__).with_name("echo.py")), system.nats,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert responder.stdin is not None
    assert responder.stdout is not None
    responder.stdin.write(f"{system.user} {system.password}\n".encode())
    await responder.stdout.readline()
    stock, lean = await stock_client(system), await lean_client(system)
    try:
        figures: dict[str, Any] = {}
        for name, call in (("stock", stock_call(stock)), ("lean", lean_call(lean))):
            for concurrency in (1, 64):
                share = calls if concurrency > 1 else calls // 6
                figures[f"{name} client, {concurrency} at a time"] = await compare(call, concurrency, share, rounds)
        figures["cpu_us_per_call"] = await cost(system, lean_call(lean), calls=40_000)
        return figures
    finally:
        responder.terminate()
        await responder.wait()
        await stock.close()
        await lean.close()


async def compare(call: Call, concurrency: int, calls: int, rounds: int) -> dict[str, float]:
    """Medians over the rounds; each ratio is taken within its round."""
    for subject in (ECHO, FUNCTION):
        await offer(call, subject, calls=20 * concurrency, concurrency=concurrency)
    pairs = []
    for _ in range(rounds):
        raw = await offer(call, ECHO, calls=calls, concurrency=concurrency)
        pairs.append((raw, await offer(call, FUNCTION, calls=calls, concurrency=concurrency)))
    return {
        "echo_per_s": median(raw.rate for raw, _ in pairs),
        "mayfly_per_s": median(warm.rate for _, warm in pairs),
        "throughput_ratio": median(warm.rate / raw.rate for raw, warm in pairs),
        "echo_p50_us": median(raw.p50_us for raw, _ in pairs),
        "mayfly_p50_us": median(warm.p50_us for _, warm in pairs),
        "p50_ratio": median(warm.p50_us / raw.p50_us for raw, warm in pairs),
        "mayfly_p99_us": median(warm.p99_us for _, warm in pairs),
    }


async def cost(system: System, call: Call, calls: int) -> dict[str, float]:
    before = system.cpu_s()
    sample = await offer(call, FUNCTION, calls=calls, concurrency=64)
    after = system.cpu_s()
    return {name: (after[name] - before[name]) / sample.calls * 1e6 for name in after}
