"""What a router does while nobody asks anything of it, and how long it takes to answer then."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from statistics import median

from mayfly_chassis.bus import Bus
from mayfly_chassis.errors import BusError
from mayfly_proto import subjects
from scale.stage import Member

PING_EVERY_S = 0.005


async def at_rest(bus: Bus, router: Member, seconds: float = 30.0) -> dict[str, float]:
    """CPU without anybody who asks; then how long the router takes to answer a ping."""
    await asyncio.sleep(3)
    before = router.cpu_s()
    await asyncio.sleep(seconds)
    used = router.cpu_s() - before
    async with pinging(bus, "r1") as pings:
        await asyncio.sleep(seconds)
    asked = sorted(pings)
    return {
        "cpu_percent": used / seconds * 100,
        "ping_p50_ms": median(asked) * 1e3,
        "ping_p99_ms": asked[int(len(asked) * 0.99)] * 1e3,
    }


@asynccontextmanager
async def pinging(bus: Bus, router: str) -> AsyncIterator[list[float]]:
    """How long the router takes to answer, while it does whatever it does: seconds."""
    took: list[float] = []

    async def ask() -> None:
        began = time.perf_counter()
        with suppress(BusError):
            await bus.request(subjects.router_ping(router), timeout_s=10)
            took.append(time.perf_counter() - began)

    async def keep() -> None:
        async with asyncio.TaskGroup() as asking:
            while True:
                asking.create_task(ask())
                await asyncio.sleep(PING_EVERY_S)

    task = asyncio.create_task(keep())
    try:
        yield took
    finally:
        task.cancel()
        await asyncio.wait({task})
