"""What the scaler learns of a function's calls reaches the worker that keeps its instances."""

import asyncio
import json
from time import monotonic
from typing import Any

import nats
import pytest

from tests.acceptance import outside
from tests.acceptance.conftest import Platform

FUNCTION = "hoarder"
SOURCE = """
kept = []

def handler(event, context):
    if not kept:
        kept.append(b"x" * (200 << 20))
    return "done"
"""
PAUSE_S = 1.2
DEFAULT_S = 90.0


async def wanted(reader: nats.NATS) -> dict[str, Any]:
    """The function's target."""
    message = await reader.jetstream().get_last_msg("KV_targets", f"$KV.targets.function.{FUNCTION}")
    target: dict[str, Any] = json.loads(message.data or b"{}")
    return target


@pytest.mark.timeout(120)
async def test_an_instance_stays_as_long_as_it_is_worth(platform: Platform) -> None:
    """A function whose calls come every second and whose instances are large: by default one would idle for a minute
    and a half after the last of them; a few pauses later it stays for seconds, and then leaves."""
    await asyncio.to_thread(outside.deploy, platform, FUNCTION, SOURCE, memory=512)
    operator = outside.client(platform.nats, user=platform.user, password=platform.password)
    async with outside.client(platform.nats) as client, operator as reader:

        async def call_until_learnt() -> float:
            while True:
                assert (await outside.call(client, FUNCTION, b"")).code == 200
                await asyncio.sleep(PAUSE_S)
                try:
                    keep_s = (await wanted(reader)).get("keep_alive_s") or DEFAULT_S
                except nats.js.errors.NotFoundError:
                    continue
                if keep_s < 20:
                    return float(keep_s)

        async with asyncio.timeout(60):
            keep_s = await call_until_learnt()
        await outside.call(client, FUNCTION, b"")
        ended = monotonic()
        await outside.until(lambda: not outside.instances(platform, FUNCTION), timeout=45, every=0.2)
        assert keep_s - 1 <= monotonic() - ended < DEFAULT_S / 2
