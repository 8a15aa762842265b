"""Nodes, load and decisions by HTTP, with workers, routers and a scaler played over the wire in their own roles."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from mayfly_broker.server import EmbeddedServer
from mayfly_chassis.bus import Bus
from mayfly_chassis.kv import Bucket
from mayfly_proto import api, headers, records, storage, subjects
from mayfly_proto.errors import CallError, ErrorType
from mayfly_proto.records import (
    Client,
    Decision,
    FunctionLoad,
    NodeLease,
    NodeLoad,
    NodeTarget,
    RouterLoad,
    VersionLoad,
)
from tests.conftest import Connect
from tests.integration.gateway import TOKEN, Gateway, Platform, echo, gateway

PEER = "127.0.0.1"


@pytest.fixture
async def http(server: EmbeddedServer, tmp_path: Path) -> AsyncIterator[Gateway]:
    async with gateway(server, tmp_path) as running:
        yield running


async def join(worker: Bus, node: str, **labels: str) -> None:
    client = Client(server="s", id=1)
    lease = NodeLease(node=node, epoch=7, client=client, memory_mb=512, cores=2, isolation=["process"], labels=labels)
    await Bucket(worker, storage.NODES).put(node, records.encode(lease))


def load(node: str, **instances: VersionLoad) -> bytes:
    report = NodeLoad(
        node=node,
        epoch=7,
        seq=1,
        memory_mb=512,
        memory_used_mb=256,
        cpu_percent=40.0,
        instances={function: {"1": counts} for function, counts in instances.items()},
        routers={},
    )
    return records.encode(report)


async def answered(http: Gateway, path: str, rows: int) -> list[dict[str, Any]]:
    """What is answered as soon as there are so many rows."""
    async with asyncio.timeout(5):
        while len(found := (await http.manage("GET", path)).json) < rows:
            pass
    return found


async def test_nodes_say_what_they_carry_and_why_they_leave(http: Gateway, connect: Connect) -> None:
    """Lease, last report and target are one row."""
    worker, scaler = await connect("worker"), await connect("scaler")
    await join(worker, "n2")
    await join(worker, "n1", gpu="yes")
    target = NodeTarget(by="scaler", since="2026-01-01T00:00:00Z", why="fits on one node")
    await Bucket(scaler, storage.TARGETS).put(storage.node_target_key("n2"), records.encode(target))
    await Bucket(scaler, storage.TARGETS).put(storage.node_target_key("n1"), b"words that nobody can read")
    worker.publish(subjects.load_node("n1"), load("n1", a=VersionLoad(ready=3, busy=2, starting=1)))
    await worker.flush()
    async with asyncio.timeout(5):
        while (rows := await answered(http, "nodes", 2))[0]["memory_used_mb"] is None:
            pass
    first, second = rows
    shown = [first[name] for name in ("node", "state", "memory_used_mb", "cpu_percent", "ready", "busy", "starting")]
    assert shown == ["n1", "up", 256, 40.0, 3, 2, 1]
    assert first["labels"] == "gpu=yes"
    assert first["heard_s"] < 5
    assert [second[name] for name in ("node", "drain_by", "drain_why", "heard_s")] == [
        "n2",
        "scaler",
        "fits on one node",
        None,
    ]


async def test_load_is_of_the_last_seconds(http: Gateway, connect: Connect) -> None:
    """Two reports make a rate; instances come from the nodes."""
    worker, router = await connect("worker"), await connect("router")
    worker.publish(subjects.load_node("n1"), load("n1", hello=VersionLoad(ready=3, busy=2)))
    await worker.flush()
    for calls in (100, 150):
        functions = {"hello": FunctionLoad(calls=calls, cold=calls // 10, queued=4, p50_ms=1.5, p99_ms=9.0)}
        report = RouterLoad(router="r1", epoch=1, functions=functions)
        router.publish(subjects.load_router("r1"), records.encode(report))
        await router.flush()
    async with asyncio.timeout(5):
        while not (row := (await answered(http, "load", 1))[0])["rate"]:
            pass
    assert row["cold_percent"] == 10.0
    shown = [row[name] for name in ("function", "ready", "busy", "queued", "p50_ms", "p99_ms")]
    assert shown == ["hello", 3, 2, 4, 1.5, 9.0]


async def test_without_a_scaler_nothing_is_drained(http: Gateway) -> None:
    """503 at once, in a sentence that says who is missing."""
    for verb in ("drain", "undrain"):
        answer = await http.manage("POST", f"nodes/n1/{verb}")
        assert (answer.status, answer.error["type"], answer.header("Retry-After")) == (503, "unavailable", "1")
        assert answer.error["message"] == "no scaler is running, and it is the scaler that empties nodes"


async def test_drains_are_the_scalers(http: Gateway, connect: Connect) -> None:
    """Request and answer pass as they are; 404 for a node that is not there; a body that is wrong is refused here."""
    scaler = await connect("scaler")
    asked: list[tuple[str, api.NodeRequest]] = []

    def serve(subject: bytes, reply: bytes, _raw: bytes | None, payload: bytes) -> None:
        verb, request = subject.decode().rpartition(".")[2], records.decode(payload, api.NodeRequest)
        asked.append((verb, request))
        if request.node != "n1":
            error = CallError(ErrorType.NOT_FOUND, f"there is no node {request.node}", component="scaler")
            scaler.publish(reply, error.body(), headers=error.headers())
            return
        on = verb == api.DRAIN
        answer = api.NodeReply(node="n1", state="draining" if on else "up", draining=on)
        scaler.publish(reply, api.encode(answer))

    await scaler.subscribe(subjects.NODE_API, serve, queue=subjects.SCALER_QUEUE)
    await scaler.flush()
    drained = await http.manage("POST", "nodes/n1/drain", {"why": "new disk"})
    assert (drained.status, drained.json) == (200, {"node": "n1", "state": "draining", "draining": True})
    assert (await http.manage("POST", "nodes/n1/undrain")).json["state"] == "up"
    assert asked == [("drain", api.NodeRequest(node="n1", why="new disk")), ("undrain", api.NodeRequest(node="n1"))]
    nobody = await http.manage("POST", "nodes/n9/drain")
    assert (nobody.status, nobody.error["component"], nobody.error["message"]) == (404, "scaler", "there is no node n9")
    assert (await http.manage("POST", "nodes/n1/drain", {"why": "x" * 201})).status == 400
    assert len(asked) == 3


def decision(number: int) -> bytes:
    told = Decision(time="2026-01-01T00:00:00Z", scaler="s1", epoch=1, about="nodes", action="add", count=number)
    return records.encode(told)


async def test_decisions_are_read_as_logs_are(http: Gateway, connect: Connect) -> None:
    """History, tail and what follows, in order, each once."""
    scaler = await connect("scaler")

    async def said(query: str = "") -> list[int]:
        answer = await http.manage("GET", f"scaler/log{query}")
        assert (answer.status, answer.header("Content-Type")) == (200, "application/x-ndjson")
        return [json.loads(line)["count"] for line in answer.body.splitlines()]

    assert await said() == []
    for number in range(5):
        scaler.publish(subjects.DECISIONS, decision(number))
    await scaler.flush()
    async with asyncio.timeout(5):
        while len(await said()) < 5:
            pass
    assert await said("?tail=2") == [3, 4]
    assert await said("?since=2099-01-01") == []
    wrong = await http.manage("GET", "scaler/log?since=never")
    assert (wrong.status, wrong.error["type"]) == (400, "bad_request")

    async with http.connected() as (reader, writer), asyncio.timeout(10):
        writer.write(
            b"GET /api/v1/scaler/log?tail=1&follow=true HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %b\r\n\r\n"
            % TOKEN.encode()
        )
        assert b'"count":4' in await reader.readuntil(b'"count":4')
        scaler.publish(subjects.DECISIONS, decision(5))
        assert b'"count":5' in await reader.readuntil(b'"count":5')


@pytest.mark.parametrize(("proxies", "caller"), [(0, PEER), (1, "1.2.3.4")])
async def test_callers_are_told_apart(
    server: EmbeddedServer, connect: Connect, tmp_path: Path, proxies: int, caller: str
) -> None:
    """Where a function limits each caller, its router learns who calls; no client can say that itself."""
    async with gateway(server, tmp_path, trusted_proxies=proxies) as http:
        platform = Platform(await connect("registry"), await connect("router"))
        await platform.publish("limited", caller_rate_limit=5.0)
        await platform.publish("open")
        for name in ("limited", "open"):
            await platform.serve(name, echo)
        fields = {"Mayfly-Caller": "somebody else", "X-Forwarded-For": "6.6.6.6, 1.2.3.4"}
        for name in ("limited", "open"):
            assert (await http.send("POST", f"/function/{name}", b"{}", fields)).status == 200
        limited, unlimited = (call.headers for call in platform.calls)
        assert limited[headers.CALLER] == caller
        assert not [name for name in unlimited if name.lower() == headers.CALLER.lower()]
        assert sum(name.lower() == headers.CALLER.lower() for name in limited) == 1


async def test_throttled_callers_learn_when_to_come_back(http: Gateway, connect: Connect) -> None:
    """429 with the router's own Retry-After."""
    platform = Platform(await connect("registry"), await connect("router"))
    await platform.publish("busy")
    error = CallError(ErrorType.THROTTLED, "busy: the queue is full", component="router", retry_after_s=7)
    await platform.serve("busy", lambda _call: (error.headers(), error.body()))
    answer = await http.send("POST", "/function/busy", b"{}")
    assert (answer.status, answer.header("Retry-After"), answer.error["type"]) == (429, "7", "throttled")
