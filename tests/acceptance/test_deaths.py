"""kill -9 of every service while calls are in flight: each call is answered or fails before its deadline, and the
platform recovers by itself, with no orphan process and no stale route."""

import asyncio
import json
from typing import Any

import pytest

from tests.acceptance import outside

SLOW = """
import time

def handler(event, context):
    time.sleep(event)
    return "done"
"""
CALLS = 12
TIMEOUT_S = 5  # the function's; a call's deadline is ten seconds more


@pytest.fixture
async def busy(mortal: Any) -> Any:
    """With warm instances to keep busy."""
    outside.deploy(mortal, "slow", SLOW, timeout=TIMEOUT_S, memory=32, max_instances=CALLS, activation="eager")
    async with outside.client(mortal.nats) as connection:
        await asyncio.gather(*(outside.call(connection, "slow", b"0.3") for _ in range(CALLS)))
    return mortal


async def in_flight_while(platform: Any, kill: str, seconds: float) -> list[outside.Answer]:
    """Start calls that run for ``seconds``, kill the service once they run, and collect every answer."""
    payload = json.dumps(seconds).encode()
    async with outside.client(platform.nats) as connection:
        calls = [
            asyncio.create_task(outside.call(connection, "slow", payload, timeout=TIMEOUT_S + 12)) for _ in range(CALLS)
        ]
        await outside.until(lambda: running(platform) >= 10)
        outside.kill_9(outside.pid_of(platform, kill))
        return list(await asyncio.gather(*calls))


def running(platform: Any) -> int:
    return sum(row["state"] == "busy" for row in outside.instances(platform, "slow"))


async def answers_again(platform: Any) -> None:
    """The next calls work, from a new connection, by NATS and by HTTP."""

    def by_http() -> bool:
        try:
            return outside.http_call(platform.http, "POST", "/function/slow", b"0").code == 200
        except OSError:
            return False

    await outside.until(by_http, timeout=30)

    async with outside.client(platform.nats) as connection:
        assert (await outside.call(connection, "slow", b"0")).code == 200


def services_are_as_published(platform: Any) -> bool:
    return all(outside.alive(entry["pid"]) for entry in platform.services())


@pytest.mark.parametrize("service", ["router", "activator", "gateway", "registry"])
async def test_calls_in_flight_survive_the_death_of(busy: Any, service: str) -> None:
    """The instance answers the caller directly: these services can die without a running call noticing."""
    before = outside.pid_of(busy, service)
    if service == "gateway":  # `running` asks the gateway: start the calls, then look
        answers = await in_flight_while(busy, service, 2)
    else:
        answers = await in_flight_while(busy, service, 2)
    assert [answer.code for answer in answers] == [200] * CALLS
    await outside.until(lambda: outside.pid_of(busy, service) != before)
    await answers_again(busy)
    assert services_are_as_published(busy)


@pytest.mark.invariant("I25")
async def test_calls_in_flight_on_a_dead_worker_fail_at_once(busy: Any) -> None:
    """A worker's death is noticed in milliseconds, its callers get 502 `node_lost`, and nothing of it is left."""
    worker = outside.pid_of(busy, "worker")
    below = outside.below(worker)
    assert len(below) >= 10
    loop = asyncio.get_running_loop()
    started = loop.time()
    answers = await in_flight_while(busy, "worker", 4)
    assert {answer.code for answer in answers} == {502}
    assert {answer.error["type"] for answer in answers} == {"node_lost"}
    assert loop.time() - started < 4, "the callers were left to wait"
    await outside.until(lambda: not any(outside.alive(pid) for pid in below))
    await outside.until(lambda: outside.pid_of(busy, "worker") != worker)
    await answers_again(busy)
    await outside.until(lambda: {row["instance"] for row in outside.instances(busy)} == routed(busy))


async def test_calls_in_flight_outlive_the_nats_server(busy: Any) -> None:
    """The server dies and comes back: the calls that ran are answered once everyone has reconnected."""
    server = outside.pid_of(busy, "nats")
    answers = await in_flight_while(busy, "nats", 4)
    assert all(answer.code in (200, 502) for answer in answers), [answer.code for answer in answers]
    await outside.until(lambda: outside.pid_of(busy, "nats") != server)
    await answers_again(busy)
    assert services_are_as_published(busy)
    await outside.until(lambda: {row["instance"] for row in outside.instances(busy)} == routed(busy))


def routed(platform: Any) -> set[str]:
    """Instances in the Route Cache, as an operator reads it."""

    async def read() -> set[str]:
        async with outside.client(platform.nats, user=platform.user, password=platform.password) as connection:
            bucket = await connection.jetstream().key_value("routes")
            try:
                keys = await bucket.keys()
            except Exception:  # noqa: BLE001  # nats-py raises NoKeysError for an empty bucket
                return set()
            entries = [await bucket.get(key) for key in keys]
        return {instance for entry in entries for instance in json.loads(entry.value or b"{}")["instances"]}

    return asyncio.run(read())
