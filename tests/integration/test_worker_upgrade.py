"""Workers replaced one after the other under steady load, as an upgrade does it."""

import asyncio
import signal
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from mayfly_broker.server import EmbeddedServer
from mayfly_proto.errors import CallError
from tests.conftest import Connect
from tests.integration.router_peers import Platform
from tests.integration.worker_driver import Driver, until
from tests.integration.worker_process import WorkerProcess

NODES = ("n1", "n2")
CALLERS = 6
SLOW = """
import os, time

def handler(event, context):
    time.sleep(0.1)
    return {"instance": os.environ["MAYFLY_INSTANCE"]}
"""


class Load:
    """Callers that call again as soon as they have their answer."""

    def __init__(self, mayfly: Platform) -> None:
        self._mayfly = mayfly
        self._going_on = True
        self.answers: list[Any] = []

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(CALLERS):
                tasks.create_task(self._call_on())

    async def _call_on(self) -> None:
        while self._going_on:
            self.answers.append(await self._mayfly.call("fn.hello"))

    def end(self) -> None:
        self._going_on = False

    async def further(self, number: int) -> None:
        """Wait for so many more answers."""
        goal = len(self.answers) + number
        await until(lambda: len(self.answers) >= goal, timeout_s=20)


@pytest.mark.invariant("S12", "S23")
async def test_workers_replaced_in_turn_fail_no_call(
    server: EmbeddedServer, connect: Connect, mayfly: Platform, tmp_path: Path
) -> None:
    """SIGTERM, the end, a new process of the same name, for both nodes: of all calls meanwhile, which run only once
    and are not repeated for anyone, each is answered with its result; and both new workers serve."""
    driver = Driver(await connect("operator"))
    await driver.listen()
    async with AsyncExitStack() as stack:
        workers = {}
        for name in NODES:
            worker = workers[name] = WorkerProcess(
                server, tmp_path / name, MAYFLY_WORKER_NODE=name, MAYFLY_WORKER_MEMORY_MB="512"
            )
            await worker.start()
            stack.push_async_callback(worker.end)
            await until(lambda name=name: driver.lease(name))
        await mayfly.activator()
        await mayfly.router()
        await driver.deploy("hello", SLOW, timeout_s=10.0, max_instances=8, activation="eager")
        await mayfly.point("hello", 1, [1])
        await mayfly.callable("hello", 1)
        load = Load(mayfly)
        running = asyncio.create_task(load.run())
        await load.further(2 * CALLERS)
        for name, worker in workers.items():
            before = await driver.lease(name)
            assert before is not None
            worker.process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(worker.process.wait(), 15) == 0
            await load.further(CALLERS)
            await worker.start()
            await until(
                lambda name=name, epoch=before.epoch: driver.lease(name),
                lambda lease, epoch=before.epoch: lease is not None and lease.epoch > epoch,
            )
            await load.further(2 * CALLERS)
        load.end()
        await running
        failed = Counter(answer.kind.value for answer in load.answers if isinstance(answer, CallError))
        assert failed == {}
        assert len(load.answers) > 8 * CALLERS
