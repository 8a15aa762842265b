"""Everything is restarted, one after the other, and the workers are upgraded, under a steady load: no call fails."""

import asyncio
import importlib.metadata
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import nats
import pytest

from tests.acceptance import outside
from tests.acceptance.conftest import Platform
from tests.chaos.pairs import SERVICES, Pairs, operating, pairs
from tests.chaos.rolling import HEARD, Load, deploy, steady
from tests.chaos.witness import Witness, witness

NEWER = "99.0"

pytestmark = [pytest.mark.xdist_group("chaos"), pytest.mark.timeout(300)]


@dataclass(frozen=True)
class Rolling:
    both: Pairs
    operator: nats.NATS
    load: Load


@asynccontextmanager
async def under_load(folder: Path) -> AsyncIterator[Rolling]:
    """Two of each service and two nodes; calls and events go on inside the block, and all are judged after it."""
    with pairs(folder) as both:
        platform = both.platform
        async with operating(platform) as operator, outside.client(platform.nats) as client, witness() as told:
            await both.ready(operator)
            deploy(platform, told)
            async with steady(platform, both.gateways, client) as load:
                yield Rolling(both, operator, load)
            await heard(load, told)
    judge(load)


@pytest.mark.invariant("S23")
async def test_no_call_fails_while_everything_is_restarted(tmp_path: Path) -> None:
    """Each process is told to stop and comes back, one after the other."""
    async with under_load(tmp_path) as rolling:
        for service in SERVICES:
            await rolling.both.restart_all(rolling.operator, service)


@pytest.mark.invariant("S23")
async def test_no_call_fails_while_workers_are_upgraded(tmp_path: Path) -> None:
    """A node with a newer Mayfly joins, the old ones are drained: all that was there goes over to it."""
    async with under_load(tmp_path) as rolling:
        platform = rolling.both.platform
        worker = newer_worker(platform.data, platform.nats, tmp_path / "newer")
        try:
            await outside.until(lambda: NEWER in versions(platform), timeout=60)
            for old in ("n1", "n2"):
                await asyncio.to_thread(platform.cli, "drain", old, "--wait")
            assert {row["node"] for row in outside.instances(platform, "rolling-warm")} == {"n9"}
        finally:
            for old in ("n1", "n2"):
                await asyncio.to_thread(platform.cli, "undrain", old)
            worker.terminate()
            assert await asyncio.to_thread(worker.wait, 90) == 0


async def heard(load: Load, told: Witness) -> None:
    await outside.until(
        lambda: all(told.seen[HEARD.name, event.id] for event in load.events if event.id in load.published.acknowledged)
    )


def versions(platform: Platform) -> set[str]:
    return {node["version"] for node in outside.nodes(platform)}


def judge(load: Load) -> None:
    assert load.wrong == [], load.codes
    for what in ("rolling-warm", "rolling-cold", "http"):
        assert load.codes[what, 200] > 30, "there was no load to speak of"
    assert len(load.published.acknowledged) == len(load.events)


def newer_worker(data: Path, nats: str, folder: Path) -> subprocess.Popen[bytes]:
    """A worker of a later release: the same code under a higher version."""
    metadata = folder / f"mayfly-{NEWER}.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text(f"Metadata-Version: 2.1\nName: mayfly\nVersion: {NEWER}\n")
    assert importlib.metadata.version("mayfly") != NEWER
    environ = {
        **os.environ,
        "PYTHONPATH": str(folder),
        "MAYFLY_NATS_URL": nats,
        "MAYFLY_NATS_USER": "worker",
        "MAYFLY_NATS_PASSWORD_FILE": str(data / "secrets" / "worker"),
        "MAYFLY_WORKER_NODE": "n9",
        "MAYFLY_WORKER_MEMORY_MB": "4096",
        "MAYFLY_WORKER_DIRECTORY": str(folder / "node"),
    }
    with open(folder / "worker.log", "ab") as log:
        return subprocess.Popen([sys.executable, "-P", "-m", "mayfly_worker"], env=environ, stdout=log, stderr=log)
