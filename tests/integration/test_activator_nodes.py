"""Activators and real nodes: what the node reserves, and which nodes an order may go to."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from mayfly_activator.app import app
from mayfly_activator.config import ActivatorConfig
from mayfly_broker.server import EmbeddedServer
from mayfly_chassis.service import running
from mayfly_proto import messages, subjects
from mayfly_proto.messages import Activate, Activated, Refusal
from tests.conftest import Connect
from tests.integration.worker_driver import Driver, node, until

MEMORY_MB = 128


class Cluster:
    """Two activators, and the nodes of a test."""

    def __init__(self, server: EmbeddedServer, directory: Path, stack: AsyncExitStack, driver: Driver) -> None:
        self._server = server
        self._directory = directory
        self._stack = stack
        self.driver = driver

    async def activators(self) -> None:
        password = self._directory / "activator.password"
        password.write_text(self._server.passwords["activator"])
        config = ActivatorConfig(nats_url=self._server.url, nats_password_file=password)
        for _ in range(2):
            await self._stack.enter_async_context(running("activator", app, config))

    async def node(self, name: str, *, room_for: int = 8, labels: str = "") -> None:
        settings = {"node": name, "memory_mb": room_for * MEMORY_MB, "max_starts": 100, "labels": labels}
        await self._stack.enter_async_context(node(self._server, self._directory / name, **settings))

    async def order(self, *ids: str, **labels: str) -> Activated:
        order = Activate("r1", 1, "hello", 1, list(ids), MEMORY_MB, 2000, labels)
        return await self.driver.ask(subjects.ACTIVATE, order, Activated)

    async def on(self, name: str) -> set[str]:
        return {row.instance for row in await self.driver.instances(name)}


@pytest.fixture
async def cluster(server: EmbeddedServer, connect: Connect, tmp_path: Path) -> AsyncIterator[Cluster]:
    driver = Driver(await connect("operator"))
    await driver.listen()
    await driver.deploy("hello")
    async with AsyncExitStack() as stack:
        yield Cluster(server, tmp_path, stack, driver)


@pytest.mark.invariant("S27")
async def test_two_activators_do_not_overfill_nodes_and_place_nothing_twice(cluster: Cluster) -> None:
    """Forty orders at once for room for twelve: the node has the last word, each instance is where it was said to be,
    and nowhere else."""
    await cluster.node("n1", room_for=7)
    await cluster.node("n2", room_for=5)
    await cluster.activators()
    answers = await asyncio.gather(*(cluster.order(f"i{k}", f"j{k}") for k in range(20)))
    placed = {instance: name for answer in answers for instance, name in answer.placed.items()}
    assert Counter(placed.values()) == {"n1": 7, "n2": 5}
    assert sum(len(answer.placed) for answer in answers) == len(placed)
    for name in ("n1", "n2"):
        assert await cluster.on(name) == {instance for instance, at in placed.items() if at == name}
    assert {answer.reason for answer in answers if len(answer.placed) < 2} == {Refusal.NO_ROOM}


async def test_a_function_with_labels_goes_where_they_are(cluster: Cluster) -> None:
    """All of them; where no node has them the reason says so, for more memory would not help."""
    await cluster.node("n1")
    await cluster.node("n2", labels="gpu=yes,zone=a")
    await cluster.activators()
    assert await cluster.order("i1", gpu="yes") == Activated({"i1": "n2"})
    assert await cluster.order("i2", gpu="yes", zone="b") == Activated({}, Refusal.LABELS)
    assert await cluster.order("i3") == Activated({"i3": "n1"})


async def test_the_only_node_with_a_label_says_itself_why_it_refuses(cluster: Cluster) -> None:
    """That others lack the label is no news then."""
    await cluster.node("n1")
    await cluster.node("n2", room_for=1, labels="gpu=yes")
    await cluster.activators()
    answer = await cluster.order("i1", "i2", gpu="yes")
    assert (list(answer.placed.values()), answer.reason) == (["n2"], Refusal.NO_ROOM)


@pytest.mark.invariant("S24")
async def test_a_draining_node_gets_no_placement(cluster: Cluster) -> None:
    """From the moment it has said so: whoever has not heard of it is refused, and goes on to the next node."""
    await cluster.node("n1")
    await cluster.node("n2")
    await cluster.activators()
    assert (await cluster.order("i1")).placed == {"i1": "n1"}
    drained = await cluster.driver.ask(subjects.node_drain("n1"), messages.Drain("s1", 1, True), messages.Drained)
    assert drained.state == "draining"
    assert (await cluster.order("i2")).placed == {"i2": "n2"}
    await cluster.driver.ask(subjects.node_drain("n1"), messages.Drain("s1", 1, False), messages.Drained)

    async def placed_on() -> str:
        cluster.driver.seq += 1
        name = f"again{cluster.driver.seq}"
        return (await cluster.order(name)).placed.get(name, "")

    await until(placed_on, lambda name: name == "n1")
