"""What is promised of one event or durable call: when it is tried again, how long it may take, how it is taken back."""

import asyncio
from typing import Any

import pytest

from tests.acceptance import outside
from tests.acceptance.conftest import Platform
from tests.acceptance.witness import RAISE, WELL, Run, Word, cancelled, letters, outcome, publish, witness

ACK_WAIT_S = 10


def held_until(free: asyncio.Event) -> Any:
    async def hold(_run: Run) -> Word:
        await free.wait()
        return WELL

    return hold


async def durable(connection: Any, name: str, payload: object, **headers: str) -> str:
    """The id of a durable call."""
    fields = {f"Mayfly-{header.replace('_', '-').title()}": value for header, value in headers.items()}
    return f"A{await publish(connection, f'async.{name}', payload, fields or None)}"


async def test_attempts_come_at_growing_intervals(platform: Platform) -> None:
    """Each wait is twice the one before, give or take a fifth, up to the longest; the handler knows its attempt."""
    async with witness() as seen, outside.client(platform.nats) as connection:
        seen.script("del-grows", RAISE)
        retries = {"attempts": 5, "backoff": 0.4, "max_backoff": 1.0}
        seen.deploy(platform, "del-grows", {"event": "del.grows"}, retries=retries)
        await publish(connection, "event.del.grows", 1)
        (letter,) = await outside.until(lambda: letters(platform, "del-grows"))
        runs = seen.of("del-grows")
        assert [run.attempt for run in runs] == [1, 2, 3, 4, 5]
        assert letter["attempts"] == 5
        for before, after, wait in zip(runs, runs[1:], (0.4, 0.8, 1.0, 1.0), strict=False):
            assert before.ended is not None
            assert before.began + 0.79 * wait <= after.began, f"attempt {after.attempt}"
            assert after.began - before.ended <= 1.21 * wait + 0.8, f"attempt {after.attempt}"


async def test_an_event_has_an_age(platform: Platform) -> None:
    """One that has been tried for `max_age` seconds is given up, however many attempts are left."""
    async with witness() as seen, outside.client(platform.nats) as connection:
        seen.script("del-old", RAISE)
        retries = {"attempts": 100, "backoff": 0.3, "max_backoff": 0.3, "max_age": 1.2}
        seen.deploy(platform, "del-old", {"event": "del.old"}, retries=retries)
        await publish(connection, "event.del.old", 1)
        (letter,) = await outside.until(lambda: letters(platform, "del-old"))
        runs = seen.of("del-old")
        assert 2 <= letter["attempts"] == len(runs) <= 6
        assert runs[-1].began - runs[0].began <= 1.2 + 0.8
        assert "1.2 s" in letter["reason"]


async def test_a_long_run_keeps_its_lease(platform: Platform) -> None:
    """Longer than the consumer waits for an acknowledgement, it runs once and is delivered once."""
    async with witness() as seen, outside.client(platform.nats) as connection:

        async def long(_run: Run) -> Word:
            await asyncio.sleep(ACK_WAIT_S + 2)  # the work; nothing is waited for
            return WELL

        seen.script("del-long", long)
        seen.deploy(platform, "del-long", {"event": "del.long"}, timeout=30)
        await publish(connection, "event.del.long", 1)
        await seen.until(lambda: [run for run in seen.of("del-long") if run.ended], timeout=30)
        async with outside.client(platform.nats, user=platform.user, password=platform.password) as operator:
            stream = operator.jetstream()
            (consumer,) = [each for each in await stream.consumers_info("EVENTS") if each.name.startswith("del-long_")]
            assert consumer.config.ack_wait == ACK_WAIT_S
            assert consumer.delivered is not None
            assert (consumer.delivered.consumer_seq, consumer.num_redelivered) == (1, 0)
            while (await stream.consumer_info("EVENTS", consumer.name)).num_ack_pending:
                await asyncio.sleep(0.05)
        assert [run.attempt for run in seen.of("del-long")] == [1]


@pytest.mark.parametrize(
    "settings", [{}, {"ordered": "Key"}, {"batch": {"size": 5, "window": 60}}], ids=["plain", "ordered", "batch"]
)
async def test_what_waits_is_taken_back(platform: Platform, settings: dict[str, Any]) -> None:
    """For a slot, for its key's turn, for its batch, and for its time: it never runs. What runs is refused."""
    name = f"del-back-{'-'.join(settings) or 'plain'}"
    free = asyncio.Event()
    async with witness() as seen, outside.client(platform.nats) as connection:
        seen.script(name, held_until(free))
        seen.deploy(platform, name, max_instances=1, **settings)
        first = await durable(connection, name, "first")
        if "batch" not in settings:
            await seen.until(lambda: seen.of(name))
        waits = await durable(connection, name, "waits")
        later = await durable(connection, name, "later", delay="60")
        await outside.until(lambda: outcome(platform, later)["state"] == "scheduled")
        assert await cancelled(platform, waits) == 200
        assert await cancelled(platform, later) == 200
        assert [outcome(platform, identity)["state"] for identity in (waits, later)] == ["cancelled"] * 2
        if "batch" in settings:  # the batch is full without it
            rest = [await durable(connection, name, f"rest{number}") for number in range(4)]
            await seen.until(lambda: seen.of(name))
            assert await cancelled(platform, rest[0]) == 409
        assert await cancelled(platform, first) == 409, "it runs"
        free.set()
        assert (await asyncio.to_thread(outcome, platform, first, 20))["state"] == "succeeded"
        last = await durable(connection, name, "last")  # behind all of them
        if "batch" in settings:
            for number in range(4):
                await durable(connection, name, f"more{number}")
        assert (await asyncio.to_thread(outcome, platform, last, 20))["state"] == "succeeded"
        events = [event for run in seen.of(name) for event in (run.event if "batch" in settings else [run.event])]
        assert [event for event in events if event in ("waits", "later")] == []
        assert [outcome(platform, identity)["state"] for identity in (waits, later)] == ["cancelled"] * 2


async def test_a_retry_that_waits_is_taken_back(platform: Platform) -> None:
    """Also that of a function whose events keep an order: the next of its key runs."""
    async with witness() as seen, outside.client(platform.nats) as connection:

        async def once(run: Run) -> Word:
            return RAISE if run.event == "raises" else WELL

        for name, settings in {"del-retry": {}, "del-retry-ordered": {"ordered": "Key"}}.items():
            seen.script(name, once)
            seen.deploy(platform, name, retries={"attempts": 9, "backoff": 60, "max_backoff": 60}, **settings)
            identity = await durable(connection, name, "raises")
            await outside.until(lambda identity=identity: outcome(platform, identity)["state"] == "retrying")
            following = await durable(connection, name, "following")
            assert await cancelled(platform, identity) == 200
            assert (await asyncio.to_thread(outcome, platform, following, 20))["state"] == "succeeded"
            assert outcome(platform, identity)["state"] == "cancelled"
            assert [run.event for run in seen.of(name)] == ["raises", "following"]


async def test_a_key_is_free_when_its_call_is_taken_back(platform: Platform) -> None:
    """Be it before its first attempt or between two: the next with the key runs. One that only waits for the first
    one's result takes nothing with it."""
    async with witness() as seen, outside.client(platform.nats) as connection:
        free = asyncio.Event()

        async def works(run: Run) -> Word:
            await asyncio.sleep(0.3)  # the work: short calls are handed to an instance ahead of their turn
            if run.event == "busy":
                await free.wait()
            return RAISE if run.event == "raises" else WELL

        seen.script("del-freed", works)
        retries = {"attempts": 9, "backoff": 60, "max_backoff": 60}
        seen.deploy(platform, "del-freed", max_instances=1, retries=retries)
        raises = await durable(connection, "del-freed", "raises", idempotency_key="retried")
        await outside.until(lambda: outcome(platform, raises)["state"] == "retrying")
        assert await cancelled(platform, raises) == 200
        busy = await durable(connection, "del-freed", "busy", idempotency_key="busy")
        await seen.until(lambda: seen.running("del-freed"))
        waits = await durable(connection, "del-freed", "waits", idempotency_key="waits")
        listens = await durable(connection, "del-freed", "listens", idempotency_key="busy")
        async with outside.client(platform.nats, user=platform.user, password=platform.password) as operator:
            while (await operator.jetstream().consumer_info("ASYNC", "del-freed")).num_pending:
                await asyncio.sleep(0.02)
        for identity in (waits, listens):
            assert await cancelled(platform, identity) == 200
        free.set()
        for key in ("busy", "waits", "retried"):
            again = await durable(connection, "del-freed", f"again {key}", idempotency_key=key)
            assert (await asyncio.to_thread(outcome, platform, again, 20))["state"] == "succeeded"
        states = [outcome(platform, identity)["state"] for identity in (raises, busy, waits, listens)]
        assert states == ["cancelled", "succeeded", "cancelled", "cancelled"]
        assert [run.event for run in seen.runs] == ["raises", "busy", "again waits", "again retried"]


async def test_a_paused_function_misses_nothing(platform: Platform) -> None:
    """No event runs while it is paused, those that wait for a sync call go on, and after it all events are there."""
    async with witness() as seen, outside.client(platform.nats) as connection:
        seen.deploy(platform, "del-pause", {"event": "del.pause"})
        await publish(connection, "event.del.pause", "before")
        await seen.until(lambda: seen.of("del-pause"))
        assert outside.manage(platform, "POST", "functions/del-pause/pause").code == 200
        for number in range(30):
            await publish(connection, "event.del.pause", number)
        waiting = await durable(connection, "del-pause", "call")
        for _ in range(5):
            assert (await outside.call(connection, "del-pause", b'"sync"')).body == b"well"
        assert {run.event for run in seen.of("del-pause")} == {"before", "sync"}
        assert outcome(platform, waiting)["state"] == "pending"
        assert outside.manage(platform, "POST", "functions/del-pause/resume").code == 200
        await seen.until(lambda: len([run for run in seen.of("del-pause") if run.went_well]) == 37, timeout=40)
        events = [run.event for run in seen.of("del-pause") if run.event not in ("before", "sync")]
        assert sorted(events, key=str) == sorted([*range(30), "call"], key=str)


async def test_what_was_published_twice_runs_once(platform: Platform) -> None:
    """By its `Nats-Msg-Id`."""
    async with witness() as seen, outside.client(platform.nats) as connection:
        seen.deploy(platform, "del-twice", {"event": "del.twice"})
        twice = {"Nats-Msg-Id": f"del-{seen.port}"}
        sequences = {await publish(connection, "event.del.twice", 1, twice) for _ in range(3)}
        await publish(connection, "event.del.twice", 2)
        await seen.until(lambda: [run for run in seen.of("del-twice") if run.event == 2 and run.ended])
        assert len(sequences) == 1
        assert sorted(run.event for run in seen.of("del-twice")) == [1, 2]


async def test_a_key_is_run_once_while_the_first_still_runs(platform: Platform) -> None:
    """Sync and durable calls that come meanwhile get its result when it is there, and so do later ones."""
    free = asyncio.Event()
    async with witness() as seen, outside.client(platform.nats) as connection:
        seen.script("del-keyed", held_until(free))
        seen.deploy(platform, "del-keyed")
        for kind in ("sync", "durable"):
            free.clear()
            seen.runs.clear()
            key = {"Mayfly-Idempotency-Key": kind}
            if kind == "sync":
                firsts = [asyncio.create_task(outside.call(connection, "del-keyed", b"1", headers=key))]
            else:
                firsts, first = [], await durable(connection, "del-keyed", 1, idempotency_key=kind)
            await seen.until(lambda: seen.running("del-keyed"))
            calls = [asyncio.create_task(outside.call(connection, "del-keyed", b"2", headers=key)) for _ in range(2)]
            ids = [await durable(connection, "del-keyed", 3, idempotency_key=kind) for _ in range(2)]
            free.set()
            answers = await asyncio.gather(*firsts, *calls)
            assert [answer.body for answer in answers] == [b"well"] * len(answers)
            for identity in (*ids, *([first] if kind == "durable" else [])):
                known = await asyncio.to_thread(outcome, platform, identity, 20)
                assert (known["state"], known["result"]) == ("succeeded", "well")
            late = await outside.call(connection, "del-keyed", b"4", headers=key)
            assert (late.body, late.headers.get("Mayfly-Replayed")) == (b"well", "true")
            assert [run.event for run in seen.of("del-keyed")] == [1], "it ran again"


async def test_a_key_outlives_its_router(mortal: Platform) -> None:
    """After a kill -9 the first one's result is still there; one that runs meanwhile answers those that came later."""
    free = asyncio.Event()
    async with witness() as seen, outside.client(mortal.nats) as connection:
        seen.deploy(mortal, "del-key-kept")
        seen.script("del-key-runs", held_until(free))
        seen.deploy(mortal, "del-key-runs")
        kept, runs = ({"Mayfly-Idempotency-Key": key} for key in ("kept", "runs"))
        assert (await outside.call(connection, "del-key-kept", b"1", headers=kept)).code == 200
        first = asyncio.create_task(outside.call(connection, "del-key-runs", b"1", headers=runs))
        await seen.until(lambda: seen.running("del-key-runs"))
        outside.kill_9(outside.pid_of(mortal, "router"))

        async def again(name: str, headers: dict[str, str]) -> outside.Answer:
            """What went to the dead router is lost, and what nobody owns is refused: a caller with a key may repeat."""
            while True:
                answer = await outside.call(connection, name, b"2", headers=headers, timeout=2)
                if answer.code not in (0, 503):
                    return answer
                await asyncio.sleep(0.05)

        assert (await again("del-key-kept", kept)).headers.get("Mayfly-Replayed") == "true"
        second = asyncio.create_task(again("del-key-runs", runs))
        identity = await durable(connection, "del-key-kept", 3, idempotency_key="kept")
        assert (await asyncio.to_thread(outcome, mortal, identity, 20))["result"] == "well"
        free.set()
        assert [answer.body for answer in await asyncio.gather(first, second)] == [b"well"] * 2
        assert [run.event for run in seen.runs] == [1, 1]


async def test_one_function_s_backlog_is_bounded_for_it_alone(mortal: Platform) -> None:
    """429 when too many of its durable calls wait; others' are taken, and its own again when there is room."""
    free = asyncio.Event()
    async with witness() as seen, outside.client(mortal.nats, user=mortal.user, password=mortal.password) as operator:
        stream = operator.jetstream()
        config = (await stream.stream_info("ASYNC")).config
        bound = config.max_msgs_per_subject
        assert bound == 100_000
        await stream.update_stream(config.evolve(max_msgs_per_subject=3))
        try:
            seen.script("del-full", held_until(free))
            seen.deploy(mortal, "del-full", max_instances=1)
            seen.deploy(mortal, "del-room")

            def post(name: str) -> outside.Answer:
                return outside.http_call(mortal.http, "POST", f"/async-function/{name}", b"1")

            assert [post("del-full").code for _ in range(5)] == [202, 202, 202, 429, 429]
            assert post("del-full").error["type"] == "throttled"
            assert post("del-room").code == 202
            free.set()
            await outside.until(lambda: post("del-full").code == 202)
            await seen.until(lambda: sum(run.went_well for run in seen.of("del-full")) == 4)
        finally:
            await stream.update_stream(config.evolve(max_msgs_per_subject=bound))
