"""What the registry does by itself: durable calls that nobody can take, events that nobody needs, times to come."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from mayfly_chassis import jetstream
from mayfly_chassis.bus import Bus
from mayfly_proto import api, headers, storage, subjects
from mayfly_proto.errors import from_reply
from mayfly_registry.pausing import Pausing
from mayfly_registry.store import Store
from mayfly_registry.timetable import Timetable
from mayfly_registry.unknown_calls import UnknownCalls, dead_letter
from mayfly_registry.upkeep import Upkeep
from mayfly_registry.wiring import Wiring
from tests.conftest import Connect
from tests.integration.registry_driver import answer_probes, deploy, spec, take

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


@pytest.fixture
async def bus(connect: Connect) -> AsyncIterator[Bus]:
    """A connection with the registry's permissions, beside a router that answers every probe."""
    await answer_probes(await connect("router"))
    yield await connect("registry")


async def left(bus: Bus, stream: str) -> list[bytes]:
    messages: list[bytes] = []
    await jetstream.every(bus, stream, ">", lambda message: messages.append(message.payload))
    return messages


async def test_call_to_an_unknown_name_waits_for_ever(bus: Bus, connect: Connect) -> None:
    """It ends in the dead letters of that name, payload and the caller's headers as they were, with the reason."""
    operator = await connect("operator")
    await deploy(bus, spec())
    sent = headers.block({"ce-id": "7", "Content-Type": "text/plain", headers.DEPTH: "2", headers.TIMEOUT_MS: "5"})
    sequence = await jetstream.publish(operator, subjects.async_call("helo"), b"event", headers=sent)
    await jetstream.publish(operator, subjects.async_call("hello"), b"for hello")
    await jetstream.publish(operator, subjects.async_call("No.Function.Is-Called.So.x"), b"odd")
    await UnknownCalls(bus, Store(bus)).sweep(NOW)
    assert await left(bus, storage.ASYNC) == [b"for hello"]
    letter = await jetstream.last(bus, storage.DLQ, subjects.dead_letter("helo"))
    assert letter is not None
    fields = headers.parse(letter.headers)
    assert (letter.payload, fields[headers.REASON]) == (b"event", "there is no function helo")
    assert (fields[headers.INVOCATION], fields[headers.EVENT_SUBJECT]) == (f"A{sequence}", "async.helo")
    assert (fields[headers.ATTEMPTS], fields[headers.FAILED_AT]) == ("0", "2026-05-01T12:00:00.000Z")
    assert json.loads(fields[headers.ERROR])["type"] == "not_found"
    assert (fields["ce-id"], fields["Content-Type"], fields[headers.DEPTH]) == ("7", "text/plain", "2")
    assert headers.TIMEOUT_MS not in fields
    result = await jetstream.last(bus, storage.RESULTS, subjects.result(f"A{sequence}", "helo"))
    assert result is not None
    assert headers.parse(result.headers)[headers.STATE] == "failed"
    error = from_reply(result.headers, result.payload)
    assert error is not None
    assert (error.kind.code, error.message) == (404, "there is no function helo")
    assert await jetstream.last(bus, storage.DLQ, subjects.dead_letter("No.Function.Is-Called.So.x")) is not None


async def test_killed_sweep_writes_two_dead_letters(bus: Bus, connect: Connect) -> None:
    """Stopped after the dead letter and before the call was deleted: the next round deletes it, and writes no other."""
    operator = await connect("operator")
    await jetstream.publish(operator, subjects.async_call("helo"), b"event")
    message = await jetstream.first(bus, storage.ASYNC, subjects.ASYNC_CALLS)
    assert message is not None
    letter = dead_letter("helo", message, NOW)
    await jetstream.publish(bus, subjects.dead_letter("helo"), message.payload, headers=letter)
    await asyncio.gather(*(UnknownCalls(bus, Store(bus)).sweep(NOW + timedelta(seconds=5)) for _ in range(2)))
    assert await left(bus, storage.ASYNC) == []
    assert await left(bus, storage.DLQ) == [b"event"]


async def test_full_dead_letters_lose_a_call(bus: Bus, connect: Connect) -> None:
    """While the stream of dead letters takes nothing, the call stays where it is."""
    operator = await connect("operator")
    info = await jetstream.api(operator, subjects.stream_info(storage.DLQ))
    config = info["config"] | {"max_msgs": 1}
    await jetstream.api(operator, subjects.stream_update(storage.DLQ), config)
    for number in range(2):
        await jetstream.publish(operator, subjects.async_call("helo"), b"%d" % number)
    with pytest.raises(jetstream.JetStreamError):
        await UnknownCalls(bus, Store(bus)).sweep(NOW)
    assert (await left(bus, storage.DLQ), await left(bus, storage.ASYNC)) == ([b"0"], [b"1"])


async def test_event_goes_before_everybody_is_done(bus: Bus, connect: Connect) -> None:
    """Only what every consumer has acknowledged and what is old enough is removed."""
    operator = await connect("operator")
    await deploy(bus, spec({"event": "a.>"}))
    await deploy(bus, spec({"event": "a.*"}, name="slow"))
    upkeep = Upkeep(bus, Store(bus), Wiring(bus))
    for number in range(6):
        await jetstream.publish(operator, subjects.event(f"a.{number}"), b"%d" % number)
    await take(operator, (storage.EVENTS, "hello_1"), 6)
    await upkeep.events(datetime.now(UTC), keep_s=0)
    assert len(await left(bus, storage.EVENTS)) == 6
    await take(operator, (storage.EVENTS, "slow_1"), 4)
    await upkeep.events(datetime.now(UTC), keep_s=3600)
    assert len(await left(bus, storage.EVENTS)) == 6
    await upkeep.events(datetime.now(UTC), keep_s=0)
    assert await left(bus, storage.EVENTS) == [b"4", b"5"]
    await take(operator, (storage.EVENTS, "slow_1"), 2)
    await upkeep.events(datetime.now(UTC), keep_s=0)
    assert await left(bus, storage.EVENTS) == []


async def test_young_events_fill_the_stream(bus: Bus, connect: Connect) -> None:
    """Above half of the stream's size, what everybody has acknowledged goes however young it is."""
    operator = await connect("operator")
    info = await jetstream.api(operator, subjects.stream_info(storage.EVENTS))
    await jetstream.api(operator, subjects.stream_update(storage.EVENTS), info["config"] | {"max_bytes": 10_000})
    await jetstream.publish(operator, subjects.event("a"), bytes(4000))
    await Upkeep(bus, Store(bus), Wiring(bus)).events(datetime.now(UTC), keep_s=3600)
    assert len(await left(bus, storage.EVENTS)) == 1
    await jetstream.publish(operator, subjects.event("a"), bytes(4000))
    await Upkeep(bus, Store(bus), Wiring(bus)).events(datetime.now(UTC), keep_s=3600)
    assert await left(bus, storage.EVENTS) == []


async def test_next_times_are_not_listed(bus: Bus) -> None:
    """By function and number, in the schedule's own zone; none while the function is paused."""
    daily = {"schedule": "30 8 * * *", "timezone": "Europe/Amsterdam"}
    await deploy(bus, spec(daily, {"schedule": "@hourly"}, {"event": "a"}))
    await deploy(bus, spec({"schedule": "@every 1h"}, name="other"))
    timetable = Timetable(Store(bus), Wiring(bus))
    first, second, third = await timetable.schedules(api.SchedulesRequest(count=2), NOW)
    assert (first.function, first.number, first.timezone) == ("hello", 1, "Europe/Amsterdam")
    assert first.next == ["2026-05-02T08:30:00+02:00", "2026-05-03T08:30:00+02:00"]
    assert (second.number, second.next[0]) == (2, "2026-05-01T13:00:00+00:00")
    assert (third.function, len(third.next)) == ("other", 2)
    await Pausing(Store(bus), Wiring(bus)).pause(api.PauseRequest(name="hello"))
    (row, _) = await timetable.schedules(api.SchedulesRequest(function="hello"), NOW)
    assert (row.next, row.paused) == ([], True)


async def test_ticks_of_a_paused_function_are_lost(bus: Bus, connect: Connect) -> None:
    """They wait with everything else that is due."""
    operator = await connect("operator")
    await deploy(bus, spec({"schedule": "@every 1s"}))
    await Pausing(Store(bus), Wiring(bus)).pause(api.PauseRequest(name="hello"))
    async with asyncio.timeout(10):
        while await jetstream.last(bus, storage.SCHEDULES, subjects.due("hello")) is None:
            await asyncio.sleep(0.05)
    assert await take(operator, (storage.SCHEDULES, "hello"), 1) == []
    reply = await Pausing(Store(bus), Wiring(bus)).resume(api.PauseRequest(name="hello"))
    assert reply.waiting >= 1
    assert await take(operator, (storage.SCHEDULES, "hello"), 1) == [b""]


async def test_many_subjects_are_read_in_part(bus: Bus, connect: Connect) -> None:
    """More subjects than the server answers at once, and more bytes than one page holds, come all the same."""
    operator = await connect("operator")
    many = [subjects.async_call(f"n{number}") for number in range(1200)]
    await asyncio.gather(*(jetstream.publish(operator, subject, b"") for subject in many))
    assert (await jetstream.counts(bus, storage.ASYNC, subjects.ASYNC_CALLS)).keys() == set(many)
    assert (await jetstream.newest(bus, storage.ASYNC, many)).keys() == set(many)
    heavy = [subjects.async_call(f"h{number}") for number in range(5)]
    for subject in heavy:
        await jetstream.publish(operator, subject, bytes(3 << 20))
    assert (await jetstream.newest(bus, storage.ASYNC, heavy)).keys() == set(heavy)


async def test_what_is_due_is_taken_from_a_function_that_comes_meanwhile(bus: Bus, connect: Connect) -> None:
    """What nobody is to run goes when it is old; what is fresh may be that of a function deployed a moment ago."""
    operator = await connect("operator")
    for name in ("hello", "gone"):
        await jetstream.publish(operator, subjects.due(name), name.encode())
    await deploy(bus, spec())
    upkeep = Upkeep(bus, Store(bus), Wiring(bus))
    now = datetime.now(UTC)
    await upkeep.consumers_and_schedules(now - timedelta(minutes=5))
    assert await left(bus, storage.SCHEDULES) == [b"hello", b"gone"]
    await upkeep.consumers_and_schedules(now + timedelta(minutes=5))
    assert await left(bus, storage.SCHEDULES) == [b"hello"]


async def test_a_subject_that_is_no_text_stops_nothing(bus: Bus, connect: Connect) -> None:
    """The server takes any bytes for a subject, from anybody: calls to other names are swept, events are looked at."""
    client = await connect("client")
    for odd in (b"async.\x01x", "async.a\u200b".encode(), b"async.\xff", b"event.orders.\xff\xfe"):
        await client.request(odd, b"odd")
    await client.request(subjects.async_call("helo"), b"lost")
    await deploy(bus, spec({"event": "orders.>"}))
    store = Store(bus)
    await UnknownCalls(bus, store).sweep(NOW)
    await Upkeep(bus, store, Wiring(bus)).events(NOW, 3600)
    assert await jetstream.last(bus, storage.DLQ, subjects.dead_letter("helo")) is not None


@pytest.mark.parametrize("block", [b"NATS/1.0 503\r\n\r\n", b"NATS/1.0 503 No", b"NATS/1.X 404 No", b"garbage"])
async def test_a_header_block_that_is_none_stops_nothing(bus: Bus, connect: Connect, block: bytes) -> None:
    """The server stores what a publisher calls headers, also what looks like its own word on a request."""
    client = await connect("client")
    await client.request(subjects.async_call("aaa"), b"odd", headers=block)
    await client.request("event.a", b"odd", headers=block)
    await client.request(subjects.async_call("helo"), b"lost")
    store = Store(bus)
    await UnknownCalls(bus, store).sweep(NOW)
    await Upkeep(bus, store, Wiring(bus)).events(NOW, 3600)
    assert await left(bus, storage.ASYNC) == []
    assert sorted(await left(bus, storage.DLQ)) == [b"lost", b"odd"]
