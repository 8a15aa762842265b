"""Durable calls that come to a node ahead of their slot."""

import asyncio
import json

import pytest

from tests.conftest import Connect
from tests.integration.conftest import StartNode
from tests.integration.worker_driver import Driver, until

SLOW = """
import os, time

def handler(event, context):
    print("began", event)
    if event == "exit":
        os._exit(3)
    if event == "hang":
        time.sleep(30)
    time.sleep(0.05)
    return [event, context.get_remaining_time_in_millis()]
"""


@pytest.fixture
async def driver(start_node: StartNode) -> Driver:
    return await start_node()


async def test_they_run_one_after_the_other_in_their_order(driver: Driver) -> None:
    """None is refused, each has its whole time from when it begins, and all are told as done."""
    await driver.up("slow", SLOW, timeout_s=5.0)
    answers = await asyncio.gather(*(driver.send("slow", b"%d" % n, durable=True) for n in range(8)))
    results = [json.loads(answer.payload) for answer in answers]
    assert [event for event, _ in results] == list(range(8))
    assert all(left > 4800 for _, left in results), results
    await until(lambda: driver.finished == list(range(1, 9)))
    assert driver.refused == []


async def test_only_durable_calls_wait(driver: Driver) -> None:
    """A call that somebody waits for is the router's again at once: another node may have a slot."""
    await driver.up("slow", SLOW)
    first = driver.send("slow", b"1", durable=True)
    driver.send("slow", b"2")
    await until(lambda: driver.refused == [(2, "busy")])
    assert (await first).error is None


async def test_a_crash_takes_only_what_runs(driver: Driver) -> None:
    """Those that wait have not begun: another instance takes them, and nobody is told that they failed."""
    await driver.up("slow", SLOW, instances=2)
    poison, other = driver.send("slow", b'"exit"', durable=True), driver.send("slow", b"1", durable=True)
    waiting = [driver.send("slow", b"%d" % n, durable=True) for n in range(2, 6)]
    assert (await poison).kind == "instance_crashed"
    assert [answer.kind for answer in await asyncio.gather(other, *waiting)] == ["ok"] * 5


async def test_with_the_last_instance_gone_they_are_the_routers_again(driver: Driver) -> None:
    """Not failed, not lost, and not left to wait for an instance that nobody has ordered."""
    await driver.up("slow", SLOW)
    poison = driver.send("slow", b'"exit"', durable=True)
    for number in range(3):
        driver.send("slow", b"%d" % number, durable=True)
    assert (await poison).kind == "instance_crashed"
    await until(lambda: sorted(driver.refused) == [(2, "busy"), (3, "busy"), (4, "busy")])
    assert [line.line for line in driver.logs if line.line.startswith("began")] == ["began exit"]


async def test_their_time_begins_when_they_do(driver: Driver) -> None:
    """One that hangs is ended by its own limit; those behind it have all of theirs."""
    await driver.up("slow", SLOW, timeout_s=0.5, instances=1)
    hanging = driver.send("slow", b'"hang"', durable=True)
    behind = driver.send("slow", b"1", durable=True)
    assert (await hanging).kind == "function_timeout"
    await until(lambda: driver.refused == [(2, "busy")])
    assert not behind.done()


async def test_a_draining_node_gives_them_back(driver: Driver) -> None:
    """What runs may finish; what waits goes elsewhere at once."""
    await driver.up("slow", SLOW)
    running = driver.send("slow", b"1", durable=True)
    driver.send("slow", b"2", durable=True)
    await until(lambda: any(line.line == "began 1" for line in driver.logs))
    driver.stop("slow")
    assert (await running).error is None
    await until(lambda: driver.refused == [(2, "busy")])


async def test_a_new_owner_hears_of_them(driver: Driver, connect: Connect) -> None:
    """They count as the node's: the next router neither runs them again nor waits for them in vain."""
    await driver.up("slow", SLOW)
    futures = [driver.send("slow", b"%d" % n, durable=True) for n in range(4)]
    await until(lambda: any(line.line == "began 0" for line in driver.logs))
    successor = Driver(await connect("operator"), "r2")
    await successor.bus.subscribe("mayfly.router.r2.done", lambda *_: None)
    successor.epoch = 2
    adopted = await successor.adopt(["r2"])
    assert {call.invocation for call in adopted.calls} >= {"inv3", "inv4"}
    assert all(call.reply.startswith("mayfly.settle.slow.") for call in adopted.calls)
    assert all(call.budget_ms > 0 for call in adopted.calls)
    assert [answer.kind for answer in await asyncio.gather(*futures)] == ["ok"] * 4


async def test_heartbeats_count_those_that_wait(driver: Driver) -> None:
    """A router that compares takes none of them for lost, and none for done."""
    await driver.up("slow", SLOW)
    futures = [driver.send("slow", b'"hang"' if n == 0 else b"%d" % n, durable=True) for n in range(3)]
    seen = await until(
        lambda: [load.routers["r1"] for load in driver.loads if load.routers.get("r1")],
        lambda loads: loads and loads[-1].last_seq == 3,
    )
    assert seen[-1].calls == [1, 2, 3]
    assert not any(future.done() for future in futures)
