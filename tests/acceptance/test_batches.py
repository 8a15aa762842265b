"""Batches: how many events a handler gets at once, when, and which of them come again."""

import asyncio
import time

from tests.acceptance import outside
from tests.acceptance.conftest import Platform
from tests.acceptance.witness import RAISE, WELL, Run, Word, letters, publish, witness

QUICK = {"attempts": 2, "backoff": 0.2}


def named(run: Run, *events: object) -> Word:
    """A result that says that these have failed."""
    ids = [identity for (identity, _), event in zip(run.told["batch"], run.event, strict=True) if event in events]
    return {"return": {"batchItemFailures": [{"itemIdentifier": identity} for identity in ids]}}


async def test_a_batch_has_a_size_and_a_window(platform: Platform) -> None:
    """As many as it says go at once; fewer go when the first of them has waited for the window."""
    async with witness() as seen, outside.client(platform.nats) as connection:
        seen.deploy(platform, "bat-size", {"event": "bat.size"}, batch={"size": 4, "window": 0.7})
        before = time.monotonic()
        await asyncio.gather(*(publish(connection, "event.bat.size", number) for number in range(10)))
        await seen.until(lambda: sum(len(run.event) for run in seen.of("bat-size")) == 10)
        full, second, rest = seen.of("bat-size")
        assert [len(run.event) for run in (full, second, rest)] == [4, 4, 2]
        assert sorted(full.event + second.event + rest.event) == list(range(10))
        assert before + 0.7 <= rest.began <= full.began + 0.7 + 1.0


async def test_only_what_failed_comes_again(platform: Platform) -> None:
    """What the result names: as a second attempt, and after the last into the dead letters. The others are done."""
    async with witness() as seen, outside.client(platform.nats) as connection:

        async def fails(run: Run) -> Word:
            return named(run, 2, 3) if run.attempt == 1 else named(run, 3)

        seen.script("bat-part", fails)
        batch = {"size": 5, "window": 0.3}
        seen.deploy(platform, "bat-part", {"event": "bat.part"}, batch=batch, retries=QUICK)
        sequences = [await publish(connection, "event.bat.part", number) for number in range(5)]
        (letter,) = await outside.until(lambda: letters(platform, "bat-part"))
        assert (letter["payload"], letter["attempts"], letter["invocation"]) == (3, 2, f"E{sequences[3]}")
        first, *again = seen.of("bat-part")
        assert sorted(first.event) == [0, 1, 2, 3, 4]
        assert sorted(event for run in again for event in run.event) == [2, 3]
        assert {attempt for run in again for _, attempt in run.told["batch"]} == {2}


async def test_a_batch_that_raises_comes_again_whole(platform: Platform) -> None:
    """Every event of it."""
    async with witness() as seen, outside.client(platform.nats) as connection:

        async def raises(run: Run) -> Word:
            return RAISE if run.told["batch"][0][1] == 1 else WELL

        seen.script("bat-whole", raises)
        batch = {"size": 3, "window": 0.3}
        seen.deploy(platform, "bat-whole", {"event": "bat.whole"}, batch=batch, retries=QUICK)
        for number in range(3):
            await publish(connection, "event.bat.whole", number)
        await seen.until(lambda: sum(len(run.event) for run in seen.of("bat-whole") if run.ended) == 6)
        _, *again = seen.of("bat-whole")
        assert sorted(event for run in again for event in run.event) == [0, 1, 2]
        assert letters(platform, "bat-whole") == []


async def test_a_failure_that_a_new_router_hears_of_is_not_lost(mortal: Platform) -> None:
    """The router is killed while a batch runs: what its result names as failed runs again."""
    free = asyncio.Event()
    async with witness() as seen, outside.client(mortal.nats) as connection:

        async def fails_first(run: Run) -> Word:
            if run.event == [None] or len(seen.of("bat-router")) > 1:
                return WELL
            await free.wait()
            return named(run, *run.event)

        seen.script("bat-router", fails_first)
        seen.deploy(mortal, "bat-router", {"event": "bat.router"}, batch={"size": 1}, retries=QUICK)
        await publish(connection, "event.bat.router", "event")
        await seen.until(lambda: seen.running("bat-router"))
        outside.kill_9(outside.pid_of(mortal, "router"))
        while (await outside.call(connection, "bat-router", b"null", timeout=1)).code != 200:
            await asyncio.sleep(0.05)  # until there is a new owner
        free.set()
        await seen.until(lambda: [run for run in seen.of("bat-router") if run.event == ["event"]][1:])
