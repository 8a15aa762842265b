"""Order: the events of one key run one after another, whatever dies; those of different keys side by side."""

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import pytest

from tests.acceptance import outside
from tests.acceptance.conftest import Platform
from tests.acceptance.witness import RAISE, WELL, Run, Witness, Word, letters, publish, witness

KEYS = ("a", "b", "c")
EACH = 6
PERSISTENT = {"attempts": 20, "backoff": 0.1, "max_backoff": 0.2}


async def published(connection: Any, name: str, start: int = 0, stop: int = EACH) -> None:
    """Numbers for each key, in turn."""
    for number in range(start, stop):
        for key in KEYS:
            await publish(connection, f"event.{name}.{key}", [key, number])


def check(seen: Witness, name: str) -> None:
    """No two runs of a key overlap, and each number begins only when the one before it has gone well."""
    for key in KEYS:
        runs = [run for run in seen.of(name) if run.event[0] == key]
        for before, after in itertools.pairwise(runs):
            assert before.ended is not None
            assert before.ended <= after.began, f"{before.event} and {after.event} overlap"
        firsts = list(dict.fromkeys(run.event[1] for run in runs if run.went_well))
        assert firsts == list(range(EACH)), key
        for number in range(1, EACH):
            begun = next(run.began for run in runs if run.event[1] == number)
            done = next(run.ended for run in runs if run.event[1] == number - 1 and run.went_well)
            assert done is not None
            assert done <= begun, f"{number} of {key} ran before {number - 1} had gone well"


def all_done(seen: Witness, name: str) -> Callable[[], bool]:
    return lambda: len({tuple(run.event) for run in seen.of(name) if run.went_well}) == len(KEYS) * EACH


async def test_a_retry_holds_up_its_key_alone(platform: Platform) -> None:
    """What fails is tried again before the next of its key; other keys run meanwhile, and overlap in time."""
    async with witness() as seen, outside.client(platform.nats) as connection:

        async def works(run: Run) -> Word:
            await asyncio.sleep(0.03)  # the work
            return RAISE if run.event[1] % 2 == 0 and run.attempt < 3 else WELL

        seen.script("ord-retry", works)
        settings = {"ordered": "subject.3", "retries": PERSISTENT}
        seen.deploy(platform, "ord-retry", {"event": "ord-retry.*"}, **settings)
        await published(connection, "ord-retry")
        await seen.until(all_done(seen, "ord-retry"))
        check(seen, "ord-retry")
        assert {run.attempt for run in seen.of("ord-retry") if run.event[1] % 2 == 0} == {1, 2, 3}
        assert overlap(seen, "ord-retry")
        assert letters(platform, "ord-retry") == []


def overlap(seen: Witness, name: str) -> bool:
    """Whether runs of different keys were under way at the same time."""
    spans = [(run.event[0], run.began, run.ended or run.began) for run in seen.of(name)]
    return any(a[0] != b[0] and a[1] < b[2] and b[1] < a[2] for a in spans for b in spans)


async def test_order_is_kept_while_it_scales(platform: Platform) -> None:
    """From one instance to ten by another version: the keys begin to overlap, one key never does."""
    async with witness() as seen, outside.client(platform.nats) as connection:

        async def works(_run: Run) -> Word:
            await asyncio.sleep(0.05)  # the work
            return WELL

        seen.script("ord-scale", works)
        settings: dict[str, Any] = {"ordered": "subject.3", "retries": PERSISTENT}
        seen.deploy(platform, "ord-scale", {"event": "ord-scale.*"}, max_instances=1, **settings)
        await published(connection, "ord-scale")
        await seen.until(lambda: len(seen.of("ord-scale")) >= EACH)
        assert not overlap(seen, "ord-scale")
        seen.deploy(platform, "ord-scale", {"event": "ord-scale.*"}, max_instances=10, **settings)
        await seen.until(all_done(seen, "ord-scale"))
        check(seen, "ord-scale")
        assert overlap(seen, "ord-scale")


@pytest.mark.timeout(90)
@pytest.mark.parametrize("service", ["worker", "router"])
async def test_order_outlives_the(mortal: Platform, service: str) -> None:
    """kill -9 in the midst of it: what ran runs again, or is settled by the next router, before what comes after it,
    and so does what waited; what is published meanwhile overtakes none of it."""
    name, before = f"ord-{service}", outside.pid_of(mortal, service)
    async with witness() as seen, outside.client(mortal.nats) as connection:
        killed = asyncio.Event()

        async def works(run: Run) -> Word:
            await asyncio.sleep(0.05)  # the work
            if run.event == ["b", 1] and not killed.is_set():
                killed.set()
                outside.kill_9(outside.pid_of(mortal, service))
                await asyncio.sleep(0.3)  # it runs on beyond the death of a router
            return WELL

        seen.script(name, works)
        seen.deploy(mortal, name, {"event": f"{name}.*"}, ordered="subject.3", retries=PERSISTENT)
        await published(connection, name, stop=EACH // 2)
        await outside.until(lambda: killed.is_set() and outside.pid_of(mortal, service) != before)
        await published(connection, name, start=EACH // 2)
        await seen.until(all_done(seen, name), timeout=40)
        check(seen, name)
