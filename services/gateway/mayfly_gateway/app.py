"""What the gateway is made of, and the order in which it starts and stops."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from mayfly_chassis.mirror import Mirror
from mayfly_chassis.service import Chassis
from mayfly_gateway import management, server
from mayfly_gateway.calls import Calls
from mayfly_gateway.catalog import Catalog
from mayfly_gateway.config import GatewayConfig
from mayfly_gateway.durable import Durable
from mayfly_gateway.front import Front
from mayfly_gateway.reports import Reports
from mayfly_proto import storage, subjects


@asynccontextmanager
async def app(chassis: Chassis, config: GatewayConfig) -> AsyncIterator[None]:
    bus, token, known, stopping = chassis.bus, config.token(), Catalog(), asyncio.Event()
    nodes, reports = Mirror(bus, storage.NODES), Reports(time.monotonic)
    mirrors = (
        Mirror(bus, storage.VERSIONS, known.version_changed),
        Mirror(bus, storage.FUNCTIONS, known.function_changed),
        nodes,
    )
    async with AsyncExitStack() as stack:
        for mirror in mirrors:
            stack.push_async_callback(mirror.stop)
            await mirror.start()
        await bus.subscribe(subjects.LOAD_NODES, reports.node)
        await bus.subscribe(subjects.LOAD_ROUTERS, reports.router)
        calls = Calls(bus, known)
        front = Front(
            calls,
            Durable(bus, calls, config.store_timeout_s),
            known,
            management.application(bus, known, nodes, reports, token=token, stopping=stopping),
            ready=lambda: bus.connected and not stopping.is_set(),
            body_limit=bus.payload_limit,
            trusted_proxies=config.trusted_proxies,
        )
        await stack.enter_async_context(server.serving(front, chassis, config))
        stack.callback(stopping.set)
        yield
