"""Calls and deploys."""

import asyncio
import itertools
import random
import time
from statistics import median

from load import Sample, lean_call, offer
from mayfly_chassis.kv import Bucket
from mayfly_chassis.mirror import Mirror
from mayfly_proto import records, storage, subjects
from scale import catalogue
from scale.platform import Platform
from scale.waiting import answered

AT_ONCE = 64
ROUNDS = 5


async def warm(platforms: list[Platform], calls: int = 20_000) -> dict[str, float]:
    """One function called all the time, and all of them in turn. Returns the ratios of the last to the first."""
    ratios: dict[str, list[float]] = {}
    rounds: list[list[dict[str, float]]] = [[] for _ in platforms]
    for number in range(-1, ROUNDS):
        for one, mine in zip(platforms, rounds, strict=True):
            figures = await _round(one, calls if number >= 0 else 2_000)
            if number >= 0:
                mine.append(figures)
        if number >= 0:
            for name, value in rounds[-1][-1].items():
                ratios.setdefault(name, []).append(value / rounds[0][-1][name])
    for one, mine in zip(platforms, rounds, strict=True):
        one.figures["warm call"] = {name: median(figures[name] for figures in mine) for name in mine[0]}
    return {name: median(values) for name, values in ratios.items()}


async def _round(one: Platform, calls: int) -> dict[str, float]:
    call = lean_call(one.bus)
    shuffled = random.Random(1).sample(one.names, len(one.names))
    turns = itertools.cycle([subjects.call(name) for name in shuffled])

    async def next_one(_subject: str, payload: bytes) -> object:
        return await call(next(turns), payload)

    figures = {}
    for name, way in (("one", call), ("all_in_turn", next_one)):
        subject = subjects.call(one.names[0])
        await asyncio.sleep(2.5)  # the router has told of those that were called last
        before = one.router.cpu_s()
        sample: Sample = await offer(way, subject, calls=calls, concurrency=AT_ONCE)
        figures[f"{name}_cpu_us"] = (one.router.cpu_s() - before) / sample.calls * 1e6
        figures[f"{name}_p50_us"] = (await offer(way, subject, calls=2_000, concurrency=1)).p50_us
    return figures


async def cold(one: Platform, rounds: int = 100) -> dict[str, float]:
    """From the caller's request to its reply, with a node that starts an instance in no time."""
    cached, routes = Mirror(one.bus, storage.ROUTES), Bucket(one.bus, storage.ROUTES)
    await cached.start()
    took = []
    for number in range(rounds):
        name = one.names[number * 7919 % len(one.names)]
        for key in [key for key, _ in cached.items() if storage.parse_route_key(key)[2] == name]:
            await routes.delete(key)
        await asyncio.sleep(0.01)  # the router has heard of it by then
        began = time.perf_counter()
        await one.bus.request(subjects.call(name), b"{}", timeout_s=10)
        took.append(time.perf_counter() - began)
    await cached.stop()
    return {"cold_p50_ms": median(took) * 1e3}


async def deploys(one: Platform, rounds: int = 20) -> dict[str, float]:
    """From the write of the record until the version can be called."""
    took, before = [], one.router.cpu_s()
    for number in range(rounds):
        name, version = one.names[number % len(one.names)], 2 + number // len(one.names)
        value = records.encode(catalogue.spec(name, version))
        await Bucket(one.bus, storage.VERSIONS).put(storage.version_key(name, version), value)
        began = time.perf_counter()
        record = records.FunctionRecord(name=name, current=version, versions=list(range(1, version + 1)))
        await Bucket(one.bus, storage.FUNCTIONS).put(name, records.encode(record))
        await answered(one.bus, subjects.call(name, version))
        took.append(time.perf_counter() - began)
    return {"deploy_p50_ms": median(took) * 1e3, "deploy_cpu_ms": (one.router.cpu_s() - before) / rounds * 1e3}
