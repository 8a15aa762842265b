"""A function's log lines by HTTP: every line once, in order, from the past into what is just being written."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from mayfly_broker.server import EmbeddedServer
from mayfly_chassis.bus import Bus
from mayfly_proto import records, subjects
from mayfly_proto.records import LogLine
from tests.conftest import Connect
from tests.integration.gateway import TOKEN, Gateway, Platform, gateway


@pytest.fixture
async def worker(connect: Connect) -> Bus:
    return await connect("worker")


@pytest.fixture
async def http(server: EmbeddedServer, connect: Connect, tmp_path: Path) -> AsyncIterator[Gateway]:
    """With one function, hello."""
    async with gateway(server, tmp_path) as running:
        await Platform(await connect("registry"), await connect("router")).publish("hello")
        async with asyncio.timeout(5):
            while (await running.manage("GET", "functions/hello/logs")).status == 404:
                pass
        yield running


def say(worker: Bus, number: int, *, function: str = "hello", instance: str = "") -> None:
    instance = instance or f"i{number % 3}"
    line = LogLine(
        time="2026-01-01T00:00:00Z", function=function, version=1, instance=instance, stream="stdout", line=str(number)
    )
    worker.publish(subjects.log(function, instance), records.encode(line))


async def said(http: Gateway, query: str = "") -> list[int]:
    answer = await http.manage("GET", f"functions/hello/logs{query}")
    assert (answer.status, answer.header("Content-Type")) == (200, "application/x-ndjson")
    return [int(json.loads(line)["line"]) for line in answer.body.splitlines()]


@asynccontextmanager
async def following(http: Gateway, query: str = "", *fields: str) -> AsyncIterator[asyncio.StreamReader]:
    async with http.connected() as (reader, writer):
        head = [
            f"GET /api/v1/functions/hello/logs?follow=true{query} HTTP/1.1",
            "Host: x",
            f"Authorization: Bearer {TOKEN}",
            *fields,
        ]
        writer.write("\r\n".join([*head, "", ""]).encode())
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        yield reader


async def read(reader: asyncio.StreamReader, count: int, prefix: bytes = b"") -> list[int]:
    """The next lines, out of the chunks they come in."""
    numbers: list[int] = []
    async with asyncio.timeout(20):
        while len(numbers) < count:
            line = await reader.readline()
            assert line, numbers
            if line.startswith(prefix + b"{"):
                numbers.append(int(json.loads(line.removeprefix(prefix))["line"]))
    return numbers


async def store(http: Gateway, worker: Bus, first: int, end: int) -> None:
    """Have lines written, and wait until they are stored."""
    for number in range(first, end):
        say(worker, number)
    await worker.flush()
    async with asyncio.timeout(10):
        while (await said(http, "?tail=1")) != [end - 1]:
            pass


async def test_history_is_whole_and_only_its_own(http: Gateway, worker: Bus) -> None:
    """More lines than fit one page, in order, without those of other functions, also ones whose name begins alike."""
    for number in range(600):
        say(worker, number, function="hello.world")
        say(worker, number, function="hell")
    await store(http, worker, 0, 1200)
    assert await said(http) == list(range(1200))


async def test_tail_is_exact(http: Gateway, worker: Bus) -> None:
    """The last lines, however sparse the function's lines are in the stream."""
    assert await said(http, "?tail=5") == []
    for number in range(300):
        say(worker, number, function="noise")
        if number % 50 == 0:
            say(worker, number)
    await store(http, worker, 300, 301)
    everything = [0, 50, 100, 150, 200, 250, 300]
    for tail in (0, 1, 2, 6, 7, 8, 100):
        assert await said(http, f"?tail={tail}") == everything[len(everything) - min(tail, 7) :]


async def test_since_a_time(http: Gateway, worker: Bus) -> None:
    """Lines before are left out; a time to come leaves out all there are."""
    await store(http, worker, 0, 3)
    assert await said(http, "?since=1h") == [0, 1, 2]
    assert await said(http, "?since=1h&tail=2") == [1, 2]
    assert await said(http, "?since=2099-01-01T00:00:00Z") == []
    wrong = await http.manage("GET", "functions/hello/logs?since=yesterday")
    assert (wrong.status, wrong.error["type"]) == (400, "bad_request")


async def test_unknown_function_has_no_logs(http: Gateway) -> None:
    """A name that is mistyped is 404, not an empty answer."""
    assert (await http.manage("GET", "functions/helo/logs")).status == 404


async def test_following_loses_and_repeats_nothing(http: Gateway, worker: Bus) -> None:
    """Whoever begins to follow while lines are being written gets each of them once, in order."""

    async def write() -> None:
        for number in range(3000):
            say(worker, number)
            if number % 20 == 0:
                await asyncio.sleep(0.005)
        await worker.flush()

    writing = asyncio.create_task(write())

    async def follow(delay_s: float) -> list[int]:
        await asyncio.sleep(delay_s)
        async with following(http) as reader:
            return await read(reader, 3000)

    assert await asyncio.gather(*(follow(delay_s) for delay_s in (0, 0.2, 0.4))) == [list(range(3000))] * 3
    await writing


async def test_following_only_what_is_new(http: Gateway, worker: Bus) -> None:
    """``tail=0`` begins with the next line."""
    await store(http, worker, 0, 5)
    async with following(http, "&tail=0") as reader:
        say(worker, 5)
        assert await read(reader, 1) == [5]


async def test_following_goes_on_when_nats_comes_back(http: Gateway, worker: Bus, server: EmbeddedServer) -> None:
    """A restart of NATS interrupts a follower, who then misses and repeats nothing."""
    async with following(http) as reader:
        await store(http, worker, 0, 3)
        assert await read(reader, 3) == [0, 1, 2]
        server.stop()
        server.start()
        async with asyncio.timeout(20):
            while worker.reconnects == 0 or http.chassis.bus.reconnects == 0:
                await asyncio.sleep(0.01)
        say(worker, 3)
        assert await read(reader, 1) == [3]


async def test_server_sent_events_go_on_where_they_broke_off(http: Gateway, worker: Bus) -> None:
    """A browser's EventSource reads them, and after a break asks from the last id on."""
    await store(http, worker, 0, 3)
    answer = await http.manage("GET", "functions/hello/logs", fields={"Accept": "text/event-stream"})
    events = [
        dict(line.split(": ", 1) for line in event.split("\n")) for event in answer.body.decode().split("\n\n")[:3]
    ]
    assert [json.loads(event["data"])["line"] for event in events] == ["0", "1", "2"]
    resume = ("Accept: text/event-stream", f"Last-Event-ID: {events[1]['id']}")
    async with following(http, "", *resume) as reader:
        assert await read(reader, 1, b"data: ") == [2]


async def test_followers_end_with_the_gateway(server: EmbeddedServer, connect: Connect, tmp_path: Path) -> None:
    """An open stream does not keep the gateway from stopping."""
    ended: asyncio.Task[Any]
    async with gateway(server, tmp_path, stop_timeout_s=20) as http:
        await Platform(await connect("registry"), await connect("router")).publish("hello")
        async with asyncio.timeout(5):
            while (await http.manage("GET", "functions/hello/logs")).status == 404:
                pass

        opened = asyncio.Event()

        async def follow() -> None:
            async with following(http) as reader:
                opened.set()
                await reader.read()

        ended = asyncio.create_task(follow())
        await opened.wait()
        leaving = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - leaving < 5
    await ended
