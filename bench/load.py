"""Clients that offer load: stock nats-py, and the lean client that the services themselves use."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from statistics import median

import nats

from mayfly_chassis.bus import Bus
from system import System

PAYLOAD = b'{"name": "%b"}' % (b"x" * 80)

Call = Callable[[str, bytes], Awaitable[object]]


@dataclass(frozen=True)
class Sample:
    calls: int
    seconds: float
    p50_us: float
    p99_us: float

    @property
    def rate(self) -> float:
        return self.calls / self.seconds


async def offer(call: Call, subject: str, *, calls: int, concurrency: int, payload: bytes = PAYLOAD) -> Sample:
    """``calls`` calls, ``concurrency`` at a time, each caller waiting for its answer before its next call."""
    latencies: list[float] = []
    clock = time.perf_counter

    async def caller(share: int) -> None:
        for _ in range(share):
            started = clock()
            await call(subject, payload)
            latencies.append(clock() - started)

    started = clock()
    await asyncio.gather(*(caller(calls // concurrency) for _ in range(concurrency)))
    seconds = clock() - started
    latencies.sort()
    return Sample(len(latencies), seconds, median(latencies) * 1e6, latencies[int(len(latencies) * 0.99)] * 1e6)


async def stock_client(system: System) -> nats.NATS:
    return await nats.connect(system.nats, user=system.user, password=system.password, name="bench-stock")


def stock_call(client: nats.NATS) -> Call:
    async def call(subject: str, payload: bytes) -> object:
        return await client.request(subject, payload, timeout=30)

    return call


async def lean_client(system: System) -> Bus:
    return await Bus.connect(
        system.nats, name="bench-lean", role="operator", user=system.user, password=system.password
    )


def lean_call(bus: Bus) -> Call:
    async def call(subject: str, payload: bytes) -> object:
        return await bus.request_future(subject, payload)

    return call
