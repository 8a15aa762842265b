"""The Docker provider with a real engine: containers start, are limited, come back after a crash, and end in order."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from mayfly_scaler.config import ScalerConfig
from mayfly_scaler.nodes.providers.docker import DockerNodes
from mayfly_scaler.nodes.providers.provider import ProviderError
from tests.acceptance import outside
from tests.acceptance.docker_engine import BASE, Engine

IMAGE = "mayfly-node-test"
NODE_MB = 64
GOOD_ORDER = 7  # how it exits when it is asked to

# A worker, as far as an engine sees one.
WORKER = f"""
trap 'exit {GOOD_ORDER}' TERM
echo node $MAYFLY_WORKER_NODE of $MAYFLY_WORKER_MEMORY_MB
while :; do sleep 0.05; done
"""

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
async def nodes(engine: Engine, tmp_path: Path) -> AsyncIterator[DockerNodes]:
    engine.docker("tag", BASE, IMAGE)
    (tmp_path / "worker.json").write_text(json.dumps({"Cmd": ["sh", "-c", WORKER]}))
    config = ScalerConfig(
        provider="docker",
        docker_socket=engine.environ["DOCKER_HOST"].removeprefix("unix://"),
        docker_image=IMAGE,
        docker_network="none",
        docker_container=tmp_path / "worker.json",
        node_memory_mb=NODE_MB,
    )
    nodes = DockerNodes(config)
    yield nodes
    for node in await nodes.list():
        engine.docker("rm", "--force", f"mayfly-{node}")
    await nodes.close()


def inspect(engine: Engine, node: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(engine.docker("inspect", f"mayfly-{node}"))[0]
    return found


async def test_life_of_a_container(engine: Engine, nodes: DockerNodes) -> None:
    """Added twice and removed twice, there is one and then none; it knows its name and its memory, which limits it."""
    assert await nodes.list() == frozenset()
    for _ in range(2):
        await nodes.add("n2")
        assert await nodes.list() == {"n2"}
    made = inspect(engine, "n2")
    assert made["State"]["Status"] == "running"
    assert made["HostConfig"]["Memory"] == made["HostConfig"]["MemorySwap"] == (NODE_MB + 256) * 2**20
    await outside.until(lambda: engine.docker("logs", "mayfly-n2") == f"node n2 of {NODE_MB}\n")
    for _ in range(2):
        await nodes.remove("n2")
        assert await nodes.list() == frozenset()


async def test_it_is_asked_to_end_before_it_is_deleted(engine: Engine, nodes: DockerNodes) -> None:
    """SIGTERM, and the time that its last calls need: it exits as it does when it is asked to."""
    await nodes.add("n2")
    await outside.until(lambda: engine.docker("logs", "mayfly-n2"))
    since = engine.docker("info", "--format", "{{.SystemTime}}").strip()
    await nodes.remove("n2")
    until = engine.docker("info", "--format", "{{.SystemTime}}").strip()
    told = engine.docker("events", "--since", since, "--until", until, "--format", "{{json .}}").splitlines()
    events = [json.loads(line) for line in told]
    (died,) = [event for event in events if event["Action"] == "die"]
    assert died["Actor"]["Attributes"]["exitCode"] == str(GOOD_ORDER)


async def test_container_that_crashes_is_started_again(engine: Engine, nodes: DockerNodes) -> None:
    """kill -9: by the engine, without the scaler."""
    await nodes.add("n2")
    before = inspect(engine, "n2")["State"]["Pid"]
    engine.kill("mayfly-n2")

    def again() -> bool:
        state = inspect(engine, "n2")["State"]
        return bool(state["Running"]) and state["Pid"] != before

    await outside.until(again)


async def test_container_that_stopped_is_started_by_add(engine: Engine, nodes: DockerNodes) -> None:
    """Somebody's `docker stop`: it is listed still, and not made a second time."""
    await nodes.add("n2")
    engine.docker("stop", "--time", "5", "mayfly-n2")
    assert await nodes.list() == {"n2"}
    await nodes.add("n2")
    assert inspect(engine, "n2")["State"]["Running"]


async def test_container_that_was_never_started_is_no_orphan(engine: Engine, nodes: DockerNodes) -> None:
    """The scaler was killed between the two: what it made is listed, and started or removed by the next one."""
    for finish in (nodes.add, nodes.remove):
        labels = ("--label", "mayfly-project=mayfly", "--label", "mayfly-node=n2")
        engine.docker("create", "--name", "mayfly-n2", *labels, IMAGE, "sh", "-c", WORKER)
        assert await nodes.list() == {"n2"}
        await finish("n2")
        if finish == nodes.add:
            assert inspect(engine, "n2")["State"]["Running"]
            await nodes.remove("n2")
        assert await nodes.list() == frozenset()


@pytest.mark.invariant("I22")
async def test_missing_image_is_said(engine: Engine, nodes: DockerNodes) -> None:
    """In the engine's words; nothing is left behind."""
    engine.docker("rmi", IMAGE)
    with pytest.raises(ProviderError, match=rf"Docker engine: .*No such image: {IMAGE}"):
        await nodes.add("n2")
    assert await nodes.list() == frozenset()
