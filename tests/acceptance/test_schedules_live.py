"""Schedules on a whole platform: in time at scale zero, over the death of everything, and no tick twice."""

import asyncio
import contextlib
import time
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import pytest

from tests.acceptance import outside
from tests.acceptance.conftest import Platform, start, stop
from tests.acceptance.witness import Run, Witness, witness

LATE_S = 1.5


def tick(run: Run) -> str:
    """Which tick it is, by the time of the one after it."""
    return str(run.told["headers"]["Nats-Schedule-Next"])


def due(run: Run, period_s: float) -> float:
    """Unix time at which the tick was due."""
    return datetime.fromisoformat(tick(run)).timestamp() - period_s


def in_time(run: Run, period_s: float) -> bool:
    return -0.1 <= run.at - due(run, period_s) <= LATE_S


async def tick_after(seen: Witness, moment: float) -> Run:
    """The first that was due after that Unix time, of a schedule that is due every second."""
    await seen.until(lambda: [run for run in seen.runs if due(run, 1) > moment])
    return next(run for run in seen.runs if due(run, 1) > moment)


def no_tick_twice(seen: Witness, name: str) -> bool:
    ticks = [tick(run) for run in seen.of(name)]
    return len(set(ticks)) == len(ticks)


def delete(platform: Platform, *names: str) -> None:
    """A schedule goes on for ever, and other tests have the platform too."""
    for name in names:
        assert outside.manage(platform, "DELETE", f"functions/{name}").code == 200


def kill_all(platform: Platform) -> None:
    """kill -9 of `mayfly up` and of everything below it."""
    for pid in [platform.process.pid, *outside.below(platform.process.pid)]:
        with contextlib.suppress(ProcessLookupError):
            outside.kill_9(pid)
    platform.process.wait()
    assert platform.process.stdout is not None
    platform.process.stdout.close()


async def test_a_tick_is_in_time_at_scale_zero(platform: Platform) -> None:
    """No instance is there when it is due; it has the trigger's payload, and comes once."""
    async with witness() as seen:
        schedule = {"schedule": "@every 2s", "payload": {"n": 1}}
        seen.deploy(platform, "sch-zero", schedule, keep_alive=1)
        await seen.until(lambda: seen.of("sch-zero"))
        await outside.until(lambda: not outside.instances(platform, "sch-zero"))
        before = len(seen.of("sch-zero"))
        await seen.until(lambda: len(seen.of("sch-zero")) > before)
        delete(platform, "sch-zero")
        assert all(run.event == {"n": 1} and in_time(run, 2) for run in seen.of("sch-zero"))
        assert no_tick_twice(seen, "sch-zero")


@pytest.mark.timeout(120)
async def test_ticks_outlive_every_process(tmp_path: Path) -> None:
    """All are killed with -9 at once, `mayfly up` too, and started again on the same data: the next tick is in time,
    and none runs twice."""
    data, home = tmp_path / "data", tmp_path / "config"
    async with witness() as seen:
        platform = await asyncio.to_thread(start, data, home)
        try:
            seen.deploy(platform, "sch-dies", {"schedule": "@every 1s"})
            await seen.until(lambda: seen.runs)
            for _ in range(2):
                await asyncio.to_thread(kill_all, platform)
                platform = await asyncio.to_thread(start, data, home)
                ready = time.time()
                first = await tick_after(seen, ready)
                assert in_time(first, 1)
                assert first.at < ready + 1 + LATE_S, "a tick after the restart was left out"
        finally:
            await asyncio.to_thread(stop, platform)
        assert no_tick_twice(seen, "sch-dies")


async def test_ticks_that_were_missed(platform: Platform) -> None:
    """Those that came while their function could not run: the last one of them runs then, or all do."""
    policies = {"sch-latest": {}, "sch-all": {"missed": "all"}}
    async with (
        witness() as seen,
        outside.client(platform.nats, user=platform.user, password=platform.password) as operator,
    ):
        stream = operator.jetstream()
        for name, policy in policies.items():
            seen.deploy(platform, name, {"schedule": "@every 1s"} | policy)
        await seen.until(lambda: all(seen.of(name) for name in policies))
        for name in policies:
            assert outside.manage(platform, "POST", f"functions/{name}/pause").code == 200
        seen.runs.clear()
        for name in policies:
            while (await stream.consumer_info("SCHEDULES", name)).num_pending < 3:
                await asyncio.sleep(0.05)
        assert seen.runs == []
        resumed = time.time()
        for name in policies:
            assert outside.manage(platform, "POST", f"functions/{name}/resume").code == 200
        await seen.until(lambda: all([run for run in seen.of(name) if due(run, 1) > resumed] for name in policies))
        delete(platform, *policies)
        missed = {name: [run for run in seen.of(name) if due(run, 1) <= resumed - 1] for name in policies}
        assert missed["sch-latest"] == []
        assert len(missed["sch-all"]) >= 2
        times = sorted(due(run, 1) for run in seen.of("sch-all"))
        assert all(0.9 < after - before < 1.1 for before, after in pairwise(times)), "one was left out"
        assert all(no_tick_twice(seen, name) for name in policies)
