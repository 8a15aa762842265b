"""A node comes and goes: leases, routes, restarts of everything, drains, and kill -9."""

import asyncio
import signal
from pathlib import Path

import psutil
import pytest

from mayfly_broker.server import EmbeddedServer
from mayfly_chassis.service import BackgroundTaskDied
from mayfly_proto import records, storage
from mayfly_proto.records import Route
from tests.integration.worker_driver import NODE, Driver, node, until
from tests.integration.worker_process import WorkerProcess

SLEEP = "import time\ndef handler(event, context):\n    time.sleep(event)\n    return 'slept'\n"


async def test_node_shows_itself_and_leaves_nothing_behind(
    server: EmbeddedServer, driver: Driver, tmp_path: Path
) -> None:
    """A lease while it runs; after a stop neither lease nor routes nor processes."""
    async with node(server, tmp_path) as chassis:
        await driver.up("hello")
        lease = await driver.lease()
        assert lease is not None
        assert (lease.node, lease.client, lease.memory_mb, lease.draining) == (NODE, chassis.bus.identity, 1024, False)
        route = await driver.route("hello")
        assert route is not None
        assert (route.epoch, route.slots) == (lease.epoch, 1)
        (instance,) = await driver.instances()
    assert await driver.lease() is None
    assert await driver.route("hello") is None
    assert not Path(f"/proc/{instance.pid}").exists()


async def test_epoch_grows_and_old_routes_are_purged_at_start(
    server: EmbeddedServer, driver: Driver, tmp_path: Path
) -> None:
    """A worker that was killed leaves routes; its successor takes them away and counts on."""
    left = records.NodeLease(node=NODE, epoch=10**15, client=driver.bus.identity, memory_mb=1, cores=1)
    await driver.nodes.put(NODE, records.encode(left))
    stale = Route(epoch=10**15, instances=["i1"], slots=1)
    await driver.routes.put(storage.route_key(NODE, 1, "billing.charge"), records.encode(stale))
    await driver.routes.put(storage.route_key("n2", 1, "hello"), records.encode(stale))
    async with node(server, tmp_path):
        lease = await driver.lease()
        assert lease is not None
        assert lease.epoch == 10**15 + 1
        assert list(await driver.routes.load()) == ["n2.1.hello"]


async def test_of_two_workers_with_one_name_the_older_ends(
    server: EmbeddedServer, driver: Driver, tmp_path: Path
) -> None:
    """It says so, and takes neither the lease nor the routes of the newer with it."""

    async def serve() -> None:
        async with node(server, tmp_path / "old") as older:
            await older.stopping.wait()

    older = asyncio.create_task(serve())
    first = await until(driver.lease)
    async with node(server, tmp_path / "new"):
        with pytest.raises(BackgroundTaskDied, match="newer worker"):
            await asyncio.wait_for(older, 2)
        await driver.up("hello")
        second = await driver.lease()
        assert second is not None
        assert second.epoch > first.epoch
        assert (await driver.call("hello")).kind == "ok"


async def test_drain_finishes_running_calls_and_refuses_new_ones(
    server: EmbeddedServer, driver: Driver, tmp_path: Path
) -> None:
    """Told to stop: lease says draining, routes go, what runs is answered."""

    async def drained() -> None:
        async with node(server, tmp_path):
            await driver.up("hello", SLEEP, instances=2, timeout_s=10)
            calls.append(driver.send("hello", b"0.8"))
            await until(driver.instances, lambda instances: any(i.state == "busy" for i in instances))

    calls: list[asyncio.Future[object]] = []
    stopping = asyncio.create_task(drained())
    await until(lambda: driver.lease(), lambda lease: lease is not None and lease.draining)
    await driver.gone("hello")
    driver.send("hello", b"0")
    await until(lambda: driver.refused == [(2, "draining")])
    assert (await driver.start("hello", "late")).reason == "draining"
    answer = await calls[0]
    assert answer.payload == b"slept"  # type: ignore[attr-defined]
    await stopping
    assert driver.finished == [1]
    assert await driver.lease() is None


async def test_drain_has_a_limit(server: EmbeddedServer, driver: Driver, tmp_path: Path) -> None:
    """What runs beyond it is answered by 502, not by silence."""
    async with node(server, tmp_path, drain_limit_s=0.2):
        await driver.up("hello", SLEEP, timeout_s=60)
        running = driver.send("hello", b"50")
        await until(driver.instances, lambda instances: any(i.state == "busy" for i in instances))
    assert (await running).kind == "node_lost"


async def test_nats_server_killed_and_restarted_under_load_loses_no_instance(
    server: EmbeddedServer, driver: Driver, tmp_path: Path
) -> None:
    """Instances, routes and lease are there again, and calls are answered."""
    async with node(server, tmp_path) as chassis:
        await driver.up("hello", SLEEP, instances=3, timeout_s=20)
        before = {(i.instance, i.pid) for i in await driver.instances()}
        running = driver.send("hello", b"1.0")
        await until(driver.instances, lambda instances: any(i.state == "busy" for i in instances))
        server.kill()
        server.start()
        await until(lambda: chassis.bus.connected and driver.bus.connected)
        assert (await asyncio.wait_for(running, 10)).payload == b"slept"
        lease = await until(driver.lease, lambda lease: lease is not None and lease.client == chassis.bus.identity)
        assert (await driver.ready("hello", 3)).epoch == lease.epoch
        assert {(i.instance, i.pid) for i in await driver.instances()} == before
        assert (await driver.call("hello", b"0")).payload == b"slept"


async def test_routes_and_lease_come_back_when_somebody_tidied_them_away(
    server: EmbeddedServer, driver: Driver, tmp_path: Path
) -> None:
    """The lease had lapsed (the node was cut off): it is made again with the same epoch, and the routes with it."""
    async with node(server, tmp_path):
        await driver.up("hello")
        lease = await driver.lease()
        await driver.nodes.delete(NODE)
        await driver.routes.delete(storage.route_key(NODE, 1, "hello"))
        again = await until(driver.lease, timeout_s=8)
        assert lease is not None
        assert again.epoch == lease.epoch
        assert (await driver.ready("hello")).epoch == lease.epoch


async def test_killed_worker_leaves_no_orphan(worker_process: WorkerProcess, driver: Driver) -> None:
    """kill -9, with an instance in a busy loop: nothing of it is alive a moment later; the next worker starts clean."""
    await until(driver.lease)
    await driver.up("hello", "def handler(event, context):\n    while True: pass\n", instances=2, timeout_s=60)
    driver.send("hello")
    await until(driver.instances, lambda instances: any(i.state == "busy" for i in instances))
    pids = [process.pid for process in psutil.Process(worker_process.process.pid).children(recursive=True)]
    assert len(pids) >= 3
    worker_process.process.kill()
    await worker_process.process.wait()
    await until(lambda: not any(_alive(pid) for pid in pids), timeout_s=2)
    await worker_process.start()
    await until(lambda: driver.route("hello"), lambda route: route is None)
    await until(driver.instances_or_none, lambda instances: instances == [])
    await driver.start("hello", "next")
    await driver.ready("hello")


async def test_sigterm_ends_the_process_in_good_order(worker_process: WorkerProcess, driver: Driver) -> None:
    """Exit code 0; lease and routes are gone, the running call was answered."""
    await until(driver.lease)
    await driver.up("hello", SLEEP, timeout_s=10)
    running = driver.send("hello", b"0.5")
    await until(driver.instances, lambda instances: any(i.state == "busy" for i in instances))
    worker_process.process.send_signal(signal.SIGTERM)
    assert (await running).payload == b"slept"
    assert await asyncio.wait_for(worker_process.process.wait(), 5) == 0
    assert await driver.lease() is None
    assert await driver.route("hello") is None


def _alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
