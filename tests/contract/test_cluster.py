"""Three nats-servers as one: what Mayfly relies on when it is given the addresses of several."""

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mayfly_broker.bootstrap import bootstrap, configurations
from mayfly_chassis.bus import Bus
from mayfly_chassis.errors import NoResponders, RequestTimeout
from mayfly_proto import headers, storage, subjects
from tests.chaos.cluster import SIZE, Servers

ELECTION_S = 20.0  # 4 to 9 s, measured; a busy machine takes longer

pytestmark = [pytest.mark.xdist_group("cluster"), pytest.mark.timeout(120)]


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    with Servers(tmp_path) as servers:
        yield servers


async def info(bus: Bus, stream: str) -> dict[str, Any]:
    deadline = time.monotonic() + ELECTION_S
    while True:
        try:
            found: dict[str, Any] = json.loads((await bus.request(subjects.stream_info(stream))).payload)
            if "error" not in found and found["cluster"].get("leader"):
                return found
        except RequestTimeout:
            pass  # it has no leader now
        assert time.monotonic() < deadline, f"{stream} has no leader after {ELECTION_S:g} s"
        await asyncio.sleep(0.1)


async def publish(bus: Bus, number: int) -> int:
    """As every publisher must who wants to lose nothing: the same id until it is acknowledged. How often it took."""
    deadline = time.monotonic() + ELECTION_S
    for attempt in range(1, 1000):
        assert time.monotonic() < deadline, "not acknowledged in time"
        try:
            block = headers.block({headers.MESSAGE_ID: f"m{number}"})
            reply = await bus.request(subjects.event("cluster"), b"%d" % number, headers=block, timeout_s=1)
        except (NoResponders, RequestTimeout):
            await asyncio.sleep(0.1)
            continue
        if "error" not in json.loads(reply.payload):
            return attempt
    raise AssertionError


async def test_every_stream_is_on_every_server(servers: Servers) -> None:
    """`bootstrap(replicas=3)`: streams, buckets and object stores; said again without a number, it stays so."""
    bus = await servers.connect()
    try:
        for replicas in (SIZE, None):
            await bootstrap(bus, replicas)
            for name, _ in configurations():
                found = await info(bus, name)
                assert found["config"]["num_replicas"] == SIZE, name
                assert len(found["cluster"]["replicas"]) == SIZE - 1, name
    finally:
        await bus.close()


async def test_a_stream_outlives_its_leader(servers: Servers) -> None:
    """kill -9 of the server that leads EVENTS: a client of it finds another server, nothing acknowledged is lost, and
    the server that comes back has it all."""
    bus = await servers.connect()
    try:
        await bootstrap(bus, SIZE)
        for number in range(50):
            await publish(bus, number)
        leader = (await info(bus, storage.EVENTS))["cluster"]["leader"]
        (victim,) = [server for server in servers.all if server.store.name == leader]
        victim.kill()
        for number in range(50, 100):
            await publish(bus, number)
        found = await info(bus, storage.EVENTS)
        assert found["cluster"]["leader"] != leader
        assert found["state"]["messages"] == 100
        victim.start()
        await asyncio.to_thread(servers.wait_whole)
        deadline = time.monotonic() + ELECTION_S
        while not all(replica["current"] for replica in (await info(bus, storage.EVENTS))["cluster"]["replicas"]):
            assert time.monotonic() < deadline, "the server that came back has not caught up"
            await asyncio.sleep(0.1)
    finally:
        await bus.close()


async def test_a_lost_client_is_told_of_by_any_server(servers: Servers) -> None:
    """The disconnect event of a client of one server reaches a router that is connected to another."""
    events: list[bytes] = []
    addresses = [server.url for server in servers.all]
    router = await Bus.connect(
        addresses[0], name="r", role="router", user="router", password=servers.passwords["router"]
    )
    worker = await Bus.connect(
        addresses[1], name="w", role="worker", user="worker", password=servers.passwords["worker"]
    )
    await router.subscribe(subjects.DISCONNECT, lambda _s, _r, _h, payload: events.append(payload))
    await router.flush()
    identity = worker.identity
    assert router.identity.server != identity.server
    await worker.close()
    deadline = time.monotonic() + 5
    while not any(json.loads(event)["client"]["id"] == identity.id for event in events):
        assert time.monotonic() < deadline, events
        await asyncio.sleep(0.01)
    (event,) = [json.loads(event) for event in events if json.loads(event)["client"]["id"] == identity.id]
    assert event["server"]["id"] == identity.server
    await router.close()
