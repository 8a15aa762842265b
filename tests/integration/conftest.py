"""What several modules of integration tests start: nodes and their drivers, routers' peers, instances."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Protocol

import pytest

from mayfly_broker.server import EmbeddedServer
from tests.conftest import Connect
from tests.integration import runtime_driver, worker_driver
from tests.integration.router_peers import Platform, platform
from tests.integration.worker_driver import Driver
from tests.integration.worker_process import WorkerProcess


class StartNode(Protocol):
    async def __call__(self, **settings: Any) -> Driver: ...


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[runtime_driver.Node]:
    """Starts instances; no server."""
    async with runtime_driver.running_node(tmp_path) as node:
        yield node


@pytest.fixture
async def driver(connect: Connect) -> Driver:
    """Drives a node that the test starts."""
    return await _listening(connect)


@pytest.fixture
async def start_node(server: EmbeddedServer, connect: Connect, tmp_path: Path) -> AsyncIterator[StartNode]:
    """``await start_node(memory_mb=256)``: a node with these settings, and who drives it."""
    async with AsyncExitStack() as stack:

        async def start(**settings: Any) -> Driver:
            driver = await _listening(connect)
            await stack.enter_async_context(worker_driver.node(server, tmp_path, **settings))
            return driver

        yield start


@pytest.fixture
async def worker_process(server: EmbeddedServer, tmp_path: Path) -> AsyncIterator[WorkerProcess]:
    """A worker that can be killed."""
    worker = WorkerProcess(server, tmp_path / "worker")
    await worker.start()
    yield worker
    await worker.end()


@pytest.fixture
async def mayfly(server: EmbeddedServer, tmp_path: Path) -> AsyncIterator[Platform]:
    """Routers and activators to be started, and scripted workers."""
    async with platform(server, tmp_path) as mayfly:
        yield mayfly


async def _listening(connect: Connect) -> Driver:
    driver = Driver(await connect("operator"))
    await driver.listen()
    return driver
