"""A load that comes and goes on one machine: workers are added, emptied one by one, taken away, and no call fails."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.aio.msg import Msg

from tests.acceptance import outside
from tests.acceptance.conftest import Platform, running

NODE_MB = 1024
CALL_MB = 256  # four on a node
CALLERS = 8  # two nodes full, which is three at three quarters
QUIET_S = 90  # where starts are slow, as many as were busy are held ready for half a minute
PACE = {
    "MAYFLY_SCALER_WINDOW_S": "3",
    "MAYFLY_SCALER_AFTER_OUT_S": "1",
    "MAYFLY_SCALER_BETWEEN_IN_S": "1",
    "MAYFLY_SCALER_TICK_S": "0.5",
}
Work = Callable[[asyncio.Event], Awaitable[None]]

NAP = "import time\n\ndef handler(event, context):\n    time.sleep(event)\n    return 'done'\n"


def names(platform: Platform) -> list[str]:
    return sorted(row["node"] for row in outside.nodes(platform))


async def heard(listener: nats.NATS) -> list[dict[str, Any]]:
    """What the scaler decides from now on."""
    decisions: list[dict[str, Any]] = []

    async def keep(message: Msg) -> None:
        decisions.append(json.loads(message.data))

    await listener.subscribe("mayfly.scaler.decision", cb=keep)
    return decisions


class Load:
    """Callers that call again as soon as they have an answer; ``codes`` counts the answers, ``nodes`` what was seen."""

    def __init__(self, platform: Platform, client: nats.NATS) -> None:
        self.codes: Counter[int] = Counter()
        self.seen: list[list[str]] = []  # each set of nodes once, in order
        self._platform = platform
        self._client = client

    async def call(self, over: asyncio.Event) -> None:
        while not over.is_set():
            self.codes[(await outside.call(self._client, "nap", b"0.2")).code] += 1

    async def trickle(self, over: asyncio.Event) -> None:
        """So few that none is held ready for them."""
        while not over.is_set():
            self.codes[(await outside.call(self._client, "nap", b"0.01")).code] += 1
            await asyncio.sleep(0.3)

    async def watch(self, over: asyncio.Event) -> None:
        while not over.is_set():
            nodes = await asyncio.to_thread(names, self._platform)
            if self.seen[-1:] != [nodes]:
                self.seen.append(nodes)
            await asyncio.sleep(0.1)

    async def until_seen(self, nodes: list[str], timeout_s: float) -> None:
        await outside.until(lambda: self.seen[-1:] == [nodes], timeout=timeout_s, every=0.1)


@asynccontextmanager
async def background(*works: Work) -> AsyncIterator[None]:
    """They go on until the block is left, and then end what they do."""
    over = asyncio.Event()
    tasks = [asyncio.ensure_future(work(over)) for work in works]
    try:
        yield
    finally:
        over.set()
        await asyncio.gather(*tasks)


@pytest.mark.timeout(240)
async def test_load_comes_and_goes(tmp_path: Path) -> None:
    """Eight calls at a time need three nodes, and get them; then the nodes are emptied and taken away one by one, under
    a trickle of calls, down to the one that there was; at last no instance is left. No call has failed, and the scaler
    has said why it did each of these things."""
    flags = ("--nodes", "1", "--max-nodes", "4", "--node-memory", str(NODE_MB))
    with running(tmp_path, *flags, environ=PACE) as platform:
        assert "nodes      1, and up to 4 as load asks for them" in platform.banner
        outside.deploy(platform, "nap", NAP, memory=CALL_MB, keep_alive=1)
        operator = outside.client(platform.nats, user=platform.user, password=platform.password)
        async with outside.client(platform.nats) as client, operator as listener:
            load, decisions = Load(platform, client), await heard(listener)
            async with background(load.watch):
                async with background(*[load.call] * CALLERS):
                    await load.until_seen(["n1", "n2", "n3"], 20)
                async with background(load.trickle):
                    await load.until_seen(["n1"], QUIET_S)
                await outside.until(lambda: not outside.instances(platform), timeout=QUIET_S, every=0.1)
        assert load.seen[0] == ["n1"]
        assert load.seen[-3:] == [["n1", "n2", "n3"], ["n1", "n2"], ["n1"]]
        assert set(load.codes) == {200}
        assert not (platform.data / "nodes/n3").exists()
        assert [row["name"] for row in platform.services()].count("worker") == 1
        drained = [decision["seen"]["nodes"] for decision in decisions if decision["action"] == "drain"]
        assert drained == [["n3"], ["n2"]]
