"""What a router costs with 10, 1,000 and 10,000 functions: memory, calls, deploys, its own start, and the moments in
which another router comes, goes and is killed."""

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from statistics import median
from typing import Any

from load import lean_call, offer
from mayfly_chassis.bus import Bus
from mayfly_chassis.errors import BusError, NoResponders, RequestTimeout
from mayfly_chassis.kv import Bucket
from mayfly_proto import headers, ownership, records, storage, subjects
from scale import catalogue
from scale.stage import Member, Stage, stage

SIZES = (10, 1_000, 10_000)
NODES = 10
AT_ONCE = 64
PING_EVERY_S = 0.002
CALL_EVERY_S = 0.005
CALLED = 20  # functions that are called all the time while routers come and go


async def measure(sizes: tuple[int, ...] = SIZES) -> dict[str, Any]:
    """One stage for each size, and the ratios of the largest to the smallest."""
    figures = {f"{size} functions": await of(size) for size in sizes}
    smallest, largest = figures[f"{sizes[0]} functions"], figures[f"{sizes[-1]} functions"]
    figures["largest to smallest"] = {
        name: largest[name] / smallest[name]
        for name in (
            "call_cpu_us",
            "call_spread_cpu_us",
            "call_p50_us",
            "call_spread_p50_us",
            "cold_p50_ms",
            "deploy_cpu_ms",
        )
    }
    more_mb = largest["router_mb"] - smallest["router_mb"]
    figures["kb_a_function"] = more_mb * 1024 / (sizes[-1] - sizes[0])
    return figures


async def of(size: int) -> dict[str, Any]:
    names = catalogue.names(size)
    async with stage() as here:
        await catalogue.publish(here.bus, names)
        await here.nodes(NODES, size, 1)
        await here.service("activator")
        router = await here.service("router", name="r1")
        await agree(here.bus, "r1")
        figures: dict[str, Any] = {"start_to_ready_s": router.ready_s, "router_mb": router.resident_mb()}
        figures |= await at_rest(here.bus, router)
        figures |= await warm(here.bus, router, names)
        figures |= await cold(here.bus, names)
        figures |= await deploys(here.bus, router, names)
        figures |= await changes(here, names)
        return figures


async def at_rest(bus: Bus, router: Member, seconds: float = 10.0) -> dict[str, float]:
    await asyncio.sleep(2)
    async with pinging(bus, "r1") as pings:
        before = router.cpu_s()
        await asyncio.sleep(seconds)
        used = router.cpu_s() - before
    asked = sorted(pings)
    return {
        "rest_cpu_percent": used / seconds * 100,
        "rest_ping_p99_ms": asked[int(len(asked) * 0.99)] * 1e3,
        "rest_ping_longest_ms": asked[-1] * 1e3,
    }


async def warm(bus: Bus, router: Member, names: list[str], calls: int = 20_000) -> dict[str, float]:
    """One function called all the time, and all of them in turn."""
    call = lean_call(bus)
    one = subjects.call(names[0])
    shuffled = random.Random(1).sample(names, len(names))
    turns = itertools.cycle([subjects.call(name) for name in shuffled])

    async def next_one(_subject: str, payload: bytes) -> object:
        return await call(next(turns), payload)

    figures = {}
    for name, way in (("call", call), ("call_spread", next_one)):
        await offer(way, one, calls=max(2_000, 2 * len(names)), concurrency=AT_ONCE)
        before = router.cpu_s()
        sample = await offer(way, one, calls=calls, concurrency=AT_ONCE)
        figures[f"{name}_cpu_us"] = (router.cpu_s() - before) / sample.calls * 1e6
        figures[f"{name}_p50_us"] = (await offer(way, one, calls=4_000, concurrency=1)).p50_us
    return figures


async def cold(bus: Bus, names: list[str], rounds: int = 100) -> dict[str, float]:
    """From the caller's request to its reply, with a node that starts an instance in no time."""
    routes = Bucket(bus, storage.ROUTES)
    took = []
    for number in range(rounds):
        name = names[number * 7919 % len(names)]
        for key in [key for key in await routes.keys(limit=10**6) if storage.parse_route_key(key)[2] == name]:
            await routes.delete(key)
        await asyncio.sleep(0.01)
        began = time.perf_counter()
        await bus.request(subjects.call(name), b"{}", timeout_s=10)
        took.append(time.perf_counter() - began)
    return {"cold_p50_ms": median(took) * 1e3}


async def deploys(bus: Bus, router: Member, names: list[str], rounds: int = 20) -> dict[str, float]:
    """From the write of the record until the version can be called."""
    took, before = [], router.cpu_s()
    for number in range(rounds):
        name, version = names[number * 7919 % len(names)], 2 + number // min(len(names), rounds)
        value = records.encode(catalogue.spec(name, version))
        await Bucket(bus, storage.VERSIONS).put(storage.version_key(name, version), value)
        began = time.perf_counter()
        record = records.FunctionRecord(name=name, current=version, versions=list(range(1, version + 1)))
        await Bucket(bus, storage.FUNCTIONS).put(name, records.encode(record))
        await answered(bus, subjects.call(name, version))
        took.append(time.perf_counter() - began)
    return {"deploy_p50_ms": median(took) * 1e3, "deploy_cpu_ms": (router.cpu_s() - before) / rounds * 1e3}


async def changes(here: Stage, names: list[str]) -> dict[str, Any]:
    """A second router joins, leaves, joins again, and is killed."""
    figures: dict[str, Any] = {}
    async with caller(here.bus, names, "r1", "r2") as gaps:
        second = await here.service("router", name="r2")
        figures["join_ready_s"] = second.ready_s
        await agree(here.bus, "r1", "r2")
        await asyncio.sleep(1)
    figures["join_longest_gap_ms"], figures["join_failed"] = gaps.longest_ms, gaps.failed
    async with caller(here.bus, names, "r1", "r2") as gaps:
        began = time.perf_counter()
        await second.end()
        figures["leave_s"] = time.perf_counter() - began
        await asyncio.sleep(1)
    figures["leave_longest_gap_ms"], figures["leave_failed"] = gaps.longest_ms, gaps.failed
    third = await here.service("router", name="r2")
    await agree(here.bus, "r1", "r2")
    await asyncio.sleep(1)
    theirs = [name for name in names if ownership.owner(name, ("r1", "r2")) == "r2"]
    async with caller(here.bus, names, "r1", "r2") as gaps:
        began = time.perf_counter()
        third.kill()
        await all_answer(here.bus, theirs)
        figures["kill_all_answer_s"] = time.perf_counter() - began
        await asyncio.sleep(1)
    figures["kill_longest_gap_ms"], figures["kill_failed"] = gaps.longest_ms, gaps.failed
    return figures


async def agree(bus: Bus, *routers: str) -> None:
    """Until these are the members, the subscriptions of each follow, and every node takes them for the owners."""
    async with asyncio.timeout(120):
        for router in routers:
            while not await _agrees(bus, router, sorted(routers)):
                await asyncio.sleep(0.02)


async def _agrees(bus: Bus, router: str, members: list[str]) -> bool:
    with suppress(NoResponders, RequestTimeout):
        state = __import__("json").loads((await bus.request(subjects.router_state(router), timeout_s=10)).payload)
        done = (await bus.request(subjects.router_ping(router), timeout_s=10)).payload
        usable = all(node["usable"] for node in state["nodes"].values())
        return bool(state["members"] == members and int(done) == state["epoch"] and usable)
    return False


async def answered(bus: Bus, subject: str) -> None:
    """Until somebody says that this can be called."""
    probe = headers.block({headers.PROBE: "1"})
    while True:
        with suppress(NoResponders, RequestTimeout):
            reply = await bus.request(subject, headers=probe, timeout_s=0.5)
            if headers.SERVICE_ERROR.encode() not in (reply.headers or b""):
                return
        await asyncio.sleep(0.001)


async def all_answer(bus: Bus, names: list[str]) -> None:
    await catalogue.together(answered(bus, subjects.call(name)) for name in names)


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


class Gaps:
    longest_ms = 0.0  # between two answers of one function
    failed = 0  # calls that ended in an error


@asynccontextmanager
async def caller(bus: Bus, names: list[str], *routers: str) -> AsyncIterator[Gaps]:
    """Call some functions of each router all the time. A call that nobody hears is repeated, as gateway and SDK do."""
    gaps = Gaps()
    share = CALLED // len(routers)
    called = [name for r in routers for name in [n for n in names if ownership.owner(n, routers) == r][:share]]

    async def call(name: str) -> None:
        last = time.perf_counter()
        while True:
            with suppress(NoResponders):
                try:
                    reply = await bus.request(subjects.call(name), b"{}", timeout_s=10)
                    gaps.failed += headers.SERVICE_ERROR.encode() in (reply.headers or b"")
                except RequestTimeout:
                    gaps.failed += 1
                now = time.perf_counter()
                gaps.longest_ms = max(gaps.longest_ms, (now - last) * 1e3)
                last = now
            await asyncio.sleep(CALL_EVERY_S)

    tasks = [asyncio.create_task(call(name)) for name in called]
    try:
        yield gaps
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
