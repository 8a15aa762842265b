"""Functions change hands: a second router joins, leaves, joins again, and is killed."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from mayfly_chassis.bus import Bus
from mayfly_chassis.errors import NoResponders, RequestTimeout
from mayfly_proto import headers, ownership, subjects
from scale.platform import Platform
from scale.waiting import agree, all_answer

ROUTERS = ("r1", "r2")
CALL_EVERY_S = 0.005
CALLED = 20  # functions that are called all the time meanwhile


async def measure(one: Platform) -> dict[str, Any]:
    return {"joins": await joins(one), "leaves": await leaves(one), "is killed": await is_killed(one)}


async def joins(one: Platform) -> dict[str, float]:
    before = one.router.cpu_s()
    async with caller(one.bus, one.names) as gaps:
        second = await one.stage.service("router", name="r2")
        await agree(one.bus, *ROUTERS)
        await asyncio.sleep(1)
    one.second = second
    return {"start_to_ready_s": second.ready_s, "cpu_s_of_the_other": one.router.cpu_s() - before} | gaps.figures


async def leaves(one: Platform) -> dict[str, float]:
    """It is told to stop."""
    assert one.second is not None
    async with caller(one.bus, one.names) as gaps:
        began, before = time.perf_counter(), one.router.cpu_s()
        await one.second.end()
        took = time.perf_counter() - began
        await agree(one.bus, "r1")
        await asyncio.sleep(1)
    return {"took_s": took, "cpu_s_of_the_other": one.router.cpu_s() - before} | gaps.figures


async def is_killed(one: Platform) -> dict[str, float]:
    """-9. Every function of its own is asked for until it answers."""
    second = await one.stage.service("router", name="r2")
    await agree(one.bus, *ROUTERS)
    await asyncio.sleep(1)
    moved = [name for name in one.names if ownership.owner(name, ROUTERS) == "r2"]
    async with caller(one.bus, one.names) as gaps:
        began, before = time.perf_counter(), one.router.cpu_s()
        second.kill()
        await all_answer(one.bus, moved)
        took = time.perf_counter() - began
        await asyncio.sleep(1)
    return {"all_answer_s": took, "cpu_s_of_the_other": one.router.cpu_s() - before} | gaps.figures


class Gaps:
    def __init__(self) -> None:
        self.longest_ms = 0.0  # between two answers of one function
        self.failed = 0  # calls that ended in an error
        self.unheard = 0  # attempts that found nobody, and were repeated

    @property
    def figures(self) -> dict[str, float]:
        return {"longest_gap_ms": self.longest_ms, "failed": self.failed, "unheard": self.unheard}


@asynccontextmanager
async def caller(bus: Bus, names: list[str]) -> AsyncIterator[Gaps]:
    """Call some functions of each router all the time. A call that nobody hears is repeated, as gateway and SDK do."""
    gaps = Gaps()
    called = []
    for router in ROUTERS:
        called += [name for name in names if ownership.owner(name, ROUTERS) == router][: CALLED // len(ROUTERS)]

    async def call(name: str) -> None:
        last = time.perf_counter()
        while True:
            await asyncio.sleep(CALL_EVERY_S)
            try:
                reply = await bus.request(subjects.call(name), b"{}", timeout_s=10)
            except NoResponders:
                gaps.unheard += 1
                continue
            except RequestTimeout:
                gaps.failed += 1
            else:
                gaps.failed += headers.SERVICE_ERROR.encode() in (reply.headers or b"")
            now = time.perf_counter()
            gaps.longest_ms = max(gaps.longest_ms, (now - last) * 1e3)
            last = now

    tasks = [asyncio.create_task(call(name)) for name in called]
    try:
        yield gaps
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
