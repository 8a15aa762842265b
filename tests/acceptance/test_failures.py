"""Functions that fail in every way there is: each event ends in the dead letters of that function, and of no other."""

import asyncio
import json
import time
from statistics import median
from typing import Any

import pytest

from tests.acceptance import outside
from tests.acceptance.conftest import Platform
from tests.acceptance.witness import SOURCE, Run, Witness, Word, letters, publish, witness

ATTEMPTS = 2
QUICK = {"attempts": ATTEMPTS, "backoff": 0.1}
EVENTS = 3
# function: how it fails, the error's type, and what of it a person needs
FATES = {
    "fate-raises": ("raise", "function_error", "in obey"),
    "fate-hangs": ("hang", "function_timeout", "1 s"),
    "fate-exits": ("exit", "instance_crashed", "last words"),
    "fate-kills": ("kill", "instance_crashed", "last words"),
    "fate-imports": ("", "init_failed", "No module named 'nowhere'"),
}
HERE: dict[str, Any] = {"event": "fate.>"}


async def latencies(seen: Witness, connection: Any, mark: str) -> list[float]:
    """From publishing to the beginning of the handler, of the function that does well."""
    sent: dict[str, float] = {}
    for number in range(10):
        sent[f"{mark}{number}"] = time.monotonic()
        await publish(connection, "event.fate.other", f"{mark}{number}")
        await asyncio.sleep(0.02)  # a pace, nothing is waited for
    await seen.until(lambda: sum(run.event in sent for run in seen.of("fate-well")) >= len(sent))
    return [run.began - sent[run.event] for run in seen.of("fate-well") if run.event in sent]


async def test_each_ends_in_its_dead_letters_and_holds_up_nobody(platform: Platform) -> None:
    """Raising, hanging, exiting, killing itself, not to be imported: the reason is told, its neighbour sees no delay,
    and after a fix every event is handled once, by the function that failed."""
    async with witness() as seen, outside.client(platform.nats) as connection:
        seen.deploy(platform, "fate-well", HERE)
        alone = await latencies(seen, connection, "alone")
        for name, (how, _, _) in FATES.items():
            seen.script(name, {"do": how})
            source = SOURCE if how else f"import nowhere\n{SOURCE}"
            settings = {"memory": 32, "timeout": 1, "env": {"WITNESS": str(seen.port)}, "connect": [seen.port]}
            outside.deploy(platform, name, source, triggers=[{"event": "fate.poison"}], retries=QUICK, **settings)
        ids = {f"E{await publish(connection, 'event.fate.poison', number)}" for number in range(EVENTS)}
        beside = await latencies(seen, connection, "beside")
        assert median(beside) < median(alone) + 0.3, "its neighbours hold it up"
        for name, (_, kind, words) in FATES.items():
            await outside.until(lambda name=name: len(letters(platform, name)) == EVENTS)
            for letter in letters(platform, name):
                assert (letter["attempts"], letter["error"]["type"]) == (ATTEMPTS, kind), letter
                assert kind in letter["reason"]
                assert words in json.dumps(letter["error"]), letter
            assert {letter["invocation"] for letter in letters(platform, name)} == ids
            assert len(seen.of(name)) == (EVENTS * ATTEMPTS if name != "fate-imports" else 0)

        seen.runs.clear()
        for name in FATES:
            seen.script(name, {})
            seen.deploy(platform, name, {"event": "fate.poison"}, retries=QUICK)
            assert json.loads(outside.manage(platform, "POST", f"dlq/{name}/redrive").body)["count"] == EVENTS
            assert letters(platform, name) == []
        await seen.until(lambda: sum(run.went_well for run in seen.runs) == len(FATES) * EVENTS)
        for name in FATES:
            assert sorted(run.event for run in seen.of(name)) == list(range(EVENTS))
            assert {run.told["invocation"] for run in seen.of(name)} == ids
        assert seen.of("fate-well") == [], "it had handled them"


@pytest.mark.timeout(90)
async def test_an_event_that_kills_its_worker_is_given_up(mortal: Platform) -> None:
    """It takes the node with it as often as it may; then it is a dead letter, and the others' events are handled."""
    async with witness() as seen, outside.client(mortal.nats) as connection:

        async def kills_its_worker(_run: Run) -> Word:
            outside.kill_9(outside.pid_of(mortal, "worker"))
            await asyncio.Event().wait()  # until the run is dead
            return {}

        seen.script("fate-lethal", kills_its_worker)
        seen.deploy(mortal, "fate-lethal", {"event": "fate.lethal"}, retries=QUICK)
        seen.deploy(mortal, "fate-beside", {"event": "fate.*"})
        poison = await publish(connection, "event.fate.lethal", "poison")
        await publish(connection, "event.fate.harmless", "harmless")
        (letter,) = await outside.until(lambda: letters(mortal, "fate-lethal"), timeout=40)
        assert (letter["invocation"], letter["attempts"]) == (f"E{poison}", ATTEMPTS)
        assert letter["error"]["type"] == "node_lost"
        assert [run.attempt for run in seen.of("fate-lethal")] == [1, 2]
        await seen.until(
            lambda: {run.event for run in seen.of("fate-beside") if run.went_well} == {"poison", "harmless"}
        )
