"""The worker, composed: what starts and stops, in order."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from importlib.metadata import version

from mayfly_chassis.errors import BusError
from mayfly_chassis.kv import Bucket
from mayfly_chassis.objects import ObjectStore
from mayfly_chassis.service import Chassis
from mayfly_proto import results, storage, subjects
from mayfly_proto.records import NodeLease
from mayfly_worker.config import WorkerConfig
from mayfly_worker.cordon import Cordon
from mayfly_worker.group import Instance
from mayfly_worker.keeper import Keeper
from mayfly_worker.launch import Launcher
from mayfly_worker.lease import Lease, Superseded
from mayfly_worker.machine import Machine
from mayfly_worker.node import TIDY_S, Node
from mayfly_worker.orders import Orders
from mayfly_worker.packages import Packages
from mayfly_worker.pool import Pool
from mayfly_worker.routes import Routes
from mayfly_worker.runtime import PythonRuntime
from mayfly_worker.specs import Specs

OVERDUE_S = 0.05  # how late a time limit may be enforced
HEARTBEAT_S = 1.0
SOONEST_S = 0.05  # between two heartbeats when there is news
WITHDRAW_S = 5.0


@asynccontextmanager
async def worker(chassis: Chassis, config: WorkerConfig) -> AsyncIterator[None]:
    log = chassis.log.bind(node=config.node)
    config.directory.mkdir(parents=True, exist_ok=True)
    runtime = PythonRuntime(platform_ports=config.platform_ports, directory=config.directory, log=log)
    await runtime.start()
    try:
        for note in runtime.notes:
            log.warning("isolation.limited", note=note)
        machine = Machine()
        lease = Lease(chassis.bus, _record(chassis, config, runtime, machine), log)
        epoch = await lease.choose_epoch()
        routes = Routes(Bucket(chassis.bus, storage.ROUTES), config.node, epoch, chassis.tasks, log)
        await routes.purge()
        packages = Packages(ObjectStore(chassis.bus, storage.CODE), config.directory, config.cache_mb)
        packages.start()
        node = Node(
            name=config.node,
            epoch=epoch,
            bus=chassis.bus,
            pool=Pool(config.memory_mb, config.max_starts),
            cordon=Cordon(config.cordon_limit_s, config.drain_limit_s),
            machine=machine,
            runtime=runtime,
            packages=packages,
            routes=routes,
            tasks=chassis.tasks,
            announce=lease.drain,
            now=time.monotonic,
            log=log,
        )
        orders = Orders(chassis.bus, node, _launching(chassis, node, packages))
        await orders.subscribe()
        await chassis.micro.endpoint("instances", subjects.node_instances(config.node), orders.instances)
        await lease.take()

        chassis.bus.on_reconnect(lease.renew_soon)
        chassis.bus.on_reconnect(routes.restore)
        renewing = chassis.background("lease", _keep(lease, routes))
        chassis.background("overdue", _every(OVERDUE_S, node.end_overdue))
        chassis.background("tidy", _every(TIDY_S, node.tidy))
        chassis.background("meter", _every(TIDY_S, node.measure))
        chassis.background("pressure", _every(HEARTBEAT_S, node.relieve))
        chassis.background("heartbeat", _beat(node))
        yield
        if lease.superseded:
            await orders.unsubscribe()  # all of it is the newer worker's, also what is refused
        await node.leave(at_once=lease.superseded)
        renewing.cancel()
        await asyncio.wait({renewing})
        await _withdraw(node, lease)
        await orders.unsubscribe()
    finally:
        await runtime.stop()


async def _keep(lease: Lease, routes: Routes) -> None:
    try:
        await lease.keep(restore=routes.restore)
    except Superseded:
        routes.close()
        raise


async def _withdraw(node: Node, lease: Lease) -> None:
    """Nothing says any more that this node was ever there; without NATS, its lease will end by itself."""
    try:
        async with asyncio.timeout(WITHDRAW_S):
            await node.routes.settled()
            await lease.release()
    except (BusError, Superseded, TimeoutError) as error:
        node.log.warning("node.not_withdrawn", error=str(error))
    node.routes.close()


def _launching(chassis: Chassis, node: Node, packages: Packages) -> Callable[[Instance, str], None]:
    launcher = Launcher(Specs(Bucket(chassis.bus, storage.VERSIONS)), packages, node.log)

    def launch(instance: Instance, router: str) -> None:
        keeper = Keeper(node, instance, router)
        chassis.tasks.create_task(launcher.launch(keeper), name=f"launch.{instance.id}")

    return launch


def _record(chassis: Chassis, config: WorkerConfig, runtime: PythonRuntime, machine: Machine) -> NodeLease:
    return NodeLease(
        node=config.node,
        epoch=0,
        client=chassis.bus.identity,
        memory_mb=config.memory_mb,
        cores=machine.cores,
        labels=config.labels,
        isolation=runtime.isolation,
        notes=runtime.notes,
        started=results.rfc3339(datetime.now(UTC)),
        version=version("mayfly"),
    )


async def _beat(node: Node) -> None:
    while True:
        with suppress(TimeoutError):
            async with asyncio.timeout(HEARTBEAT_S - SOONEST_S):
                await node.news.wait()
        node.heartbeat()
        await asyncio.sleep(SOONEST_S)


async def _every(period_s: float, action: Callable[[], None]) -> None:
    while True:
        await asyncio.sleep(period_s)
        action()
