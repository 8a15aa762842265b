"""`mayfly up` as the keeper of its machine's workers: asked by the scaler to add and remove some. Real processes."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest

from mayfly.launcher import readiness
from mayfly.launcher.directory import DataDirectory
from mayfly.launcher.nodes import LocalNodes
from mayfly.launcher.run import ServiceRun
from mayfly.launcher.supervisor import Service, Supervisor
from mayfly_broker.server import EmbeddedServer
from mayfly_chassis.bus import Bus
from mayfly_chassis.errors import NoResponders
from mayfly_chassis.kv import Bucket
from mayfly_chassis.micro import Micro
from mayfly_proto import api, storage, subjects
from tests.conftest import Connect
from tests.integration.worker_driver import until

MOST = 2


@dataclass
class Keeper:
    """The launcher's part, in this process, and a scaler that asks."""

    supervisor: Supervisor
    directory: DataDirectory
    scaler: Bus
    environment: dict[str, str]  # of workers
    said: list[str]
    changes: list[tuple[str, ...]] = field(default_factory=list)  # what platform.json would tell

    def make(self, node: str) -> Service:
        own = {"MAYFLY_WORKER_NODE": node, "MAYFLY_WORKER_DIRECTORY": str(self.directory.node(node))}
        log = self.directory.log(f"worker-{node}")
        return Service(
            "worker", f"worker-{node}", log, lambda: ServiceRun("mayfly_worker", self.environment | own, log, None)
        )

    async def ask(self, verb: str, node: str = "") -> list[str] | int:
        """The nodes, or an error's code."""
        request = api.encode(api.NodeRequest(node=node))
        reply = await self.scaler.request(subjects.local_nodes(verb), request)
        if b"Nats-Service-Error-Code" in (reply.headers or b""):
            code: int = msgspec.json.decode(reply.payload)["error"]["code"]
            return code
        return api.decode(reply.payload, api.LocalNodes).nodes

    async def leased(self, node: str) -> bool:
        return await Bucket(self.scaler, storage.NODES).get(node) is not None

    async def joined(self, node: str) -> None:
        await until(lambda: self.leased(node), timeout_s=20)

    async def gone(self, node: str) -> None:
        async def unlisted() -> bool:
            nodes = await self.ask(api.LIST)
            return isinstance(nodes, list) and node not in nodes

        await until(unlisted, timeout_s=20)


@pytest.fixture
async def keeper(server: EmbeddedServer, connect: Connect, tmp_path: Path) -> AsyncIterator[Keeper]:
    directory = DataDirectory(tmp_path / "data")
    secret = tmp_path / "password"
    secret.write_text(server.passwords["worker"])
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAYFLY_")}
    environment |= {
        "MAYFLY_NATS_URL": server.url,
        "MAYFLY_NATS_USER": "worker",
        "MAYFLY_NATS_PASSWORD_FILE": str(secret),
        "MAYFLY_WORKER_MEMORY_MB": "256",
    }
    said: list[str] = []

    def changed() -> None:
        keeper.changes.append(tuple(process.name for process in supervisor.processes()))

    supervisor = Supervisor(changed, said.append)
    keeper = Keeper(supervisor, directory, await connect("scaler"), environment, said)
    with directory.locked(), readiness.listening(supervisor.on_ready) as notify:
        environment["NOTIFY_SOCKET"] = notify
        keeping = asyncio.create_task(keep(keeper, await connect("operator")))
        await until(lambda: supervisor.services)
        yield keeper
        keeping.cancel()
        await asyncio.wait({keeping})
        await supervisor.stop((("worker",),))


async def keep(keeper: Keeper, operator: Bus) -> None:
    async with asyncio.TaskGroup() as tasks:
        nodes = LocalNodes(keeper.supervisor, keeper.directory, tasks, keeper.make, MOST)
        await nodes.listen(Micro(operator, "up", "1", "", tasks))
        await operator.flush()
        nodes.begin_with("n1")


async def test_a_worker_more_and_one_less(keeper: Keeper) -> None:
    """Added, it is a process like the others; removed, it ends in good order, and leaves neither lease nor folder.
    Asked twice, nothing more happens."""
    await keeper.joined("n1")
    assert await keeper.ask(api.LIST) == ["n1"]
    assert await keeper.ask(api.ADD, "n2") == ["n1", "n2"]
    assert await keeper.ask(api.ADD, "n2") == ["n1", "n2"]
    await keeper.joined("n2")
    assert keeper.changes[-1] == ("worker", "worker")
    assert keeper.directory.node("n2").exists()
    assert await keeper.ask(api.REMOVE, "n2") == ["n1", "n2"]
    assert await keeper.ask(api.ADD, "n2") == 409
    await keeper.ask(api.REMOVE, "n2")
    await keeper.gone("n2")
    assert not await keeper.leased("n2")
    assert not keeper.directory.node("n2").exists()
    assert keeper.changes[-1] == ("worker",)
    assert await keeper.ask(api.REMOVE, "n2") == ["n1"]
    assert keeper.said == []


async def test_limits(keeper: Keeper) -> None:
    """No more than the user allowed, and no name that would be another folder."""
    assert await keeper.ask(api.ADD, "n2") == ["n1", "n2"]
    assert await keeper.ask(api.ADD, "n3") == 409
    for name in ("../n3", "n0", "worker", "", "n1.x"):
        assert await keeper.ask(api.ADD, name) == 400
        assert await keeper.ask(api.REMOVE, name) == 400


async def test_added_worker_that_dies_comes_back(keeper: Keeper) -> None:
    """It is kept, as the first ones are, until it is taken away."""
    await keeper.ask(api.ADD, "n2")
    await keeper.joined("n2")
    (service,) = [service for service in keeper.supervisor.services if service.label == "worker-n2"]
    assert service.run is not None
    first = service.run.pid
    os.kill(first, signal.SIGKILL)
    await until(lambda: service.run is not None and service.run.pid != first)
    assert keeper.said == ["worker-n2 died (signal SIGKILL), starting it again"]


async def test_added_worker_that_cannot_start_takes_nobody_along(keeper: Keeper) -> None:
    """The platform goes on, it is tried again, and may be taken away."""
    await keeper.joined("n1")
    keeper.environment["MAYFLY_WORKER_MEMORY_MB"] = "none"
    await keeper.ask(api.ADD, "n2")
    await until(lambda: len(keeper.said) >= 2)
    assert keeper.said[0] == "worker-n2 died (exit code 2), starting it again"
    await keeper.ask(api.REMOVE, "n2")
    await keeper.gone("n2")
    assert await keeper.leased("n1")


async def test_answers_after_nats_was_away(keeper: Keeper, server: EmbeddedServer) -> None:
    """kill -9 of nats-server: the next one's scaler is answered as before."""
    server.kill()
    server.start()

    async def answered() -> bool:
        with suppress(NoResponders):
            return await keeper.ask(api.LIST) == ["n1"]
        return False

    await until(lambda: keeper.scaler.reconnects, timeout_s=20)
    await until(answered, timeout_s=20)
