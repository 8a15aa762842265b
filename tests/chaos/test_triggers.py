"""More triggers than a stream has consumers by default: they deploy, fire, and are there again after a restart."""

import asyncio
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.acceptance import outside
from tests.acceptance.conftest import Platform, start, stop
from tests.chaos.functions import Event, Function, on
from tests.chaos.publisher import Published, publish, spread
from tests.chaos.verdict import judge
from tests.chaos.witness import Witness, witness

FUNCTIONS, TRIGGERS = 60, 20  # of each function; the server's default is 1,000 consumers a stream
DEPLOYS_AT_ONCE = 8
HANDLED_S = 120.0
STOP_S = 180.0  # 1,320 durable consumers take nats-server 13 s

_HANDLER = 'def handler(event, context):\n    tell(context.function_name, event["id"])\n'


def functions() -> list[Function]:
    return [
        Function(f"many-{number}", _HANDLER, {"triggers": on(*(f"many.{number}.{n}.*" for n in range(TRIGGERS)))})
        for number in range(FUNCTIONS)
    ]


def one_each(label: str) -> list[Event]:
    """An event for every trigger."""
    return [
        Event(f"{label}-{number}-{n}", f"event.many.{number}.{n}.{label}", (f"many-{number}",))
        for number in range(FUNCTIONS)
        for n in range(TRIGGERS)
    ]


def deploy_all(platform: Platform, port: int) -> float:
    """Seconds that it took."""

    def deploy(function: Function) -> None:
        settings = function.deployable(port) | {"keep_alive": 5, "max_instances": 2}
        outside.deploy(platform, function.name, function.source, **settings)

    started = time.monotonic()
    with ThreadPoolExecutor(DEPLOYS_AT_ONCE) as pool:
        list(pool.map(deploy, functions()))
    return time.monotonic() - started


async def all_fire(platform: Platform, events: list[Event], told: Witness) -> float:
    """Publish, and wait until each has been handled by its function; seconds that it took."""
    published = Published()
    started = time.monotonic()
    async with outside.client(platform.nats) as client:
        await publish(client, spread(events, 5), published)

    def missing() -> Iterable[str]:
        return judge(events, published.acknowledged, told.seen, told.first, ()).missing

    while lost := missing():
        assert time.monotonic() - started < HANDLED_S, f"{len(list(lost))} not handled: {list(lost)[:10]}"
        await asyncio.sleep(0.5)
    assert len(published.acknowledged) == len(events)
    return time.monotonic() - started


@pytest.mark.xdist_group("chaos")
@pytest.mark.timeout(600)
async def test_twelve_hundred_triggers_survive_a_restart(tmp_path: Path) -> None:
    """60 functions with 20 triggers each; `up` waits for nats-server, which takes 10 ms for each consumer."""
    flags = ("--node-memory", "16384")
    async with witness() as told:
        platform = await asyncio.to_thread(start, tmp_path / "data", tmp_path / "config", *flags)
        try:
            deployed_s = await asyncio.to_thread(deploy_all, platform, told.port)
            before_s = await all_fire(platform, one_each("before"), told)
        finally:
            stopped = time.monotonic()
            code = await asyncio.to_thread(stop, platform, STOP_S)
        stopped_s = time.monotonic() - stopped
        assert code == 0
        assert "Server Exiting" in (tmp_path / "data/nats/nats-server.log").read_text().splitlines()[-1]

        started = time.monotonic()
        again = await asyncio.to_thread(start, tmp_path / "data", tmp_path / "config", *flags)
        started_s = time.monotonic() - started
        try:
            after_s = await all_fire(again, one_each("after"), told)
        finally:
            await asyncio.to_thread(stop, again, STOP_S)
    print(
        f"{FUNCTIONS * TRIGGERS} triggers: deployed in {deployed_s:.1f} s, one event each handled in {before_s:.1f} s, "
        f"stopped in {stopped_s:.1f} s, ready again in {started_s:.1f} s, one event each handled in {after_s:.1f} s"
    )
