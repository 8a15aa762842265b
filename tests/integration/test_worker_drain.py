"""A real node that is drained, called back, and stopped; by messages, and by signals."""

import asyncio
import signal
from pathlib import Path

import pytest

from mayfly_broker.server import EmbeddedServer
from mayfly_proto.messages import Drained, Refusal
from tests.integration.worker_driver import NODE, Driver, node, until
from tests.integration.worker_process import WorkerProcess

SLEEP = "import time\ndef handler(event, context):\n    time.sleep(event)\n    return 'slept'\n"
SPIN = "def handler(event, context):\n    while True: pass\n"


async def draining(driver: Driver, is_draining: bool) -> None:
    await until(driver.lease, lambda lease: lease is not None and lease.draining is is_draining)


async def test_drained_called_back_and_in_use_again(server: EmbeddedServer, driver: Driver, tmp_path: Path) -> None:
    """Lease and report say so at once; the empty worker lives on; after the call back it serves as before."""
    async with node(server, tmp_path):
        await driver.up("hello", instances=2)
        lease = await driver.lease()
        assert lease is not None
        assert await driver.drain() == Drained(NODE, lease.epoch, "draining")
        await draining(driver, True)
        await driver.gone("hello")
        await driver.reported(lambda load: load.state == "empty")
        assert await driver.instances() == []
        assert (await driver.start("hello", "late")).reason == Refusal.DRAINING
        assert await driver.drain(on=False) == Drained(NODE, lease.epoch, "up")
        await draining(driver, False)
        await driver.reported(lambda load: load.state == "up")
        await driver.start("hello", "next")
        await driver.ready("hello")
        assert (await driver.call("hello")).kind == "ok"


@pytest.mark.invariant("S24")
async def test_held_instance_serves_until_its_owner_stops_it(
    server: EmbeddedServer, driver: Driver, tmp_path: Path
) -> None:
    """The owner first has its floor elsewhere; running calls finish even then; then the node is empty."""
    async with node(server, tmp_path):
        await driver.up("floor", SLEEP, instances=2, timeout_s=20)
        await driver.up("other")
        driver.hold("floor", 1)
        await driver.drain()
        await driver.gone("other")
        await driver.ready("floor", 1)
        assert (await driver.call("floor", b"0")).payload == b"slept"
        running = driver.send("floor", b"1.5")
        await until(driver.instances, lambda instances: any(i.state == "busy" for i in instances))
        driver.stop("floor")
        await driver.gone("floor")
        assert (await driver.reported(lambda load: True)).state == "draining"
        assert (await running).payload == b"slept"
        await driver.reported(lambda load: load.state == "empty")


async def test_owner_that_never_answers_is_waited_for_up_to_the_limit(
    server: EmbeddedServer, driver: Driver, tmp_path: Path
) -> None:
    """The node is empty without it."""
    async with node(server, tmp_path, cordon_limit_s=0.5):
        await driver.up("floor")
        driver.hold("floor", 1)
        await driver.drain()
        await driver.reported(lambda load: load.state == "empty")


async def test_older_leader_is_refused(server: EmbeddedServer, driver: Driver, tmp_path: Path) -> None:
    """It learns that there is a newer one, and changes nothing."""
    async with node(server, tmp_path):
        await driver.drain(epoch=7)
        answer = await driver.drain(on=False, epoch=6)
        assert (answer.state, answer.reason) == ("empty", Refusal.STALE)
        lease = await driver.lease()
        assert lease is not None
        assert lease.draining


async def test_sigterm_waits_for_owners_and_then_ends(worker_process: WorkerProcess, driver: Driver) -> None:
    """The same drain, and then the end: what is held serves until its owner stops it, and nobody calls it back."""
    await until(driver.lease)
    await driver.up("floor")
    driver.hold("floor", 1)
    await driver.bus.flush()
    worker_process.process.send_signal(signal.SIGTERM)
    await draining(driver, True)
    assert (await driver.call("floor")).kind == "ok"
    refused = await driver.drain(on=False, epoch=9)
    assert (refused.state, refused.reason) == ("draining", Refusal.DRAINING)
    driver.stop("floor")
    assert await asyncio.wait_for(worker_process.process.wait(), 5) == 0
    assert await driver.lease() is None


async def test_sigterm_with_nothing_held_and_nothing_running_waits_for_nothing(
    worker_process: WorkerProcess, driver: Driver
) -> None:
    """Idle instances, and a hold that was taken back, are no reason to stay."""
    await until(driver.lease)
    await driver.up("hello", instances=3)
    driver.hold("hello", 2)
    driver.hold("hello", 0)
    await driver.bus.flush()
    worker_process.process.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(worker_process.process.wait(), 5) == 0


async def test_worker_killed_while_it_drains_comes_back_up(worker_process: WorkerProcess, driver: Driver) -> None:
    """Its successor knows nothing of the drain until it is told again; a call that ran is the owner's to answer for."""
    await until(driver.lease)
    await driver.up("hello", SPIN, timeout_s=60)
    driver.send("hello")
    await until(driver.instances, lambda instances: any(i.state == "busy" for i in instances))
    await driver.drain()
    await draining(driver, True)
    worker_process.process.kill()
    await worker_process.process.wait()
    await worker_process.start()
    await draining(driver, False)
    assert (await driver.reported(lambda load: load.state == "up")).instances == {}
    assert (await driver.drain()).state == "empty"
    await draining(driver, True)
