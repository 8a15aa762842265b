"""The client on durable calls, events and dead letters, with the real registry and a router by hand."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

import mayfly
from mayfly_broker.server import EmbeddedServer
from mayfly_chassis import jetstream
from mayfly_chassis.bus import Bus
from mayfly_proto import headers, storage, subjects
from tests.conftest import Connect
from tests.integration.durable_peers import Router, gateway_and_registry


@pytest.fixture
async def router(connect: Connect) -> Router:
    return Router(await connect("router"))


@pytest.fixture
async def client(server: EmbeddedServer, tmp_path: Path, connect: Connect) -> AsyncIterator[mayfly.Client]:
    """The operator's."""
    password = server.passwords["operator"]
    async with (
        gateway_and_registry(server, tmp_path, connect),
        mayfly.Client(nats=server.url, user="operator", password=password) as client,
    ):
        yield client


@pytest.fixture
async def anonymous(server: EmbeddedServer) -> AsyncIterator[mayfly.Client]:
    async with mayfly.Client(nats=server.url) as client:
        yield client


@pytest.fixture
async def operator(connect: Connect) -> Bus:
    return await connect("operator")


async def stored(operator: Bus, stream: str) -> list[jetstream.Stored]:
    found: list[jetstream.Stored] = []
    await jetstream.every(operator, stream, ">", found.append)
    return found


async def test_anybody_may_call_durably_and_publish(anonymous: mayfly.Client, operator: Bus) -> None:
    """The id is that of the stream's acknowledgement; the message says all that was asked."""
    at = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert await anonymous.invoke_async("hello", {"n": 1}, at=at, idempotency_key="k") == "A1"
    assert await anonymous.invoke_async("hello", delay_s=1.5) == "A2"
    assert await anonymous.publish("orders.created", "text", headers={"ce-id": "7"}) == "E1"
    ids = [await anonymous.publish("event.orders.created", b"x", message_id="m") for _ in range(2)]
    assert ids == ["E2", "E2"]
    one, two = await stored(operator, storage.ASYNC)
    fields = headers.parse(one.headers)
    assert (one.subject, one.payload, fields[headers.IDEMPOTENCY_KEY]) == ("async.hello", b'{"n":1}', "k")
    assert datetime.fromisoformat(fields[headers.AT]) == at
    assert headers.parse(two.headers)[headers.DELAY] == "1.500"
    first, _ = await stored(operator, storage.EVENTS)
    assert first.subject == "event.orders.created"
    assert headers.parse(first.headers) | {"ce-id": "7", headers.CONTENT_TYPE: "text/plain"} == headers.parse(
        first.headers
    )


async def test_the_rest_is_the_operators(anonymous: mayfly.Client) -> None:
    """Whoever is none is told so at once, and does not wait for an answer that never comes."""
    async with asyncio.timeout(2):
        for forbidden in (
            anonymous.result("A1", wait_s=60),
            anonymous.cancel("A1"),
            anonymous.dead_letters(),
            anonymous.redrive("hello"),
            anonymous.pause("hello"),
            anonymous.schedules(),
        ):
            with pytest.raises(mayfly.CallError) as caught:
                await forbidden
            assert caught.value.kind is mayfly.ErrorType.FORBIDDEN


@pytest.mark.parametrize("subject", ["", "a b", "a.*", ">", "a..b", "a\r\nPUB x 0"])
async def test_what_is_no_event_is_refused(anonymous: mayfly.Client, subject: str) -> None:
    """Before anything is sent."""
    with pytest.raises(ValueError, match="event"):
        await anonymous.publish(subject)


async def test_a_result_or_why_there_is_none(client: mayfly.Client, router: Router) -> None:
    """A value; the function's error; not yet, with its state; taken back; not known."""
    identity = await client.invoke_async("hello")
    with pytest.raises(mayfly.NoResultYet) as waiting:
        await client.result(identity, wait_s=0.1)
    assert (waiting.value.invocation, waiting.value.state) == ("A1", "pending")
    await router.says("A1", "succeeded", b'{"n":1}', **{headers.CONTENT_TYPE: "application/json"})
    result = await client.result("A1")
    assert (result.value, result.invocation) == ({"n": 1}, "A1")
    await router.failed("A2")
    await router.says("A3", "cancelled")
    for unlucky, kind in (
        ("A2", mayfly.ErrorType.FUNCTION_ERROR),
        ("A3", mayfly.ErrorType.CONFLICT),
        ("A99", mayfly.ErrorType.NOT_FOUND),
    ):
        with pytest.raises(mayfly.CallError) as caught:
            await client.result(unlucky, wait_s=5)
        assert caught.value.kind is kind


async def test_waiting_for_a_result(client: mayfly.Client, router: Router) -> None:
    """It comes when it is there, however large it is."""
    identity = await client.invoke_async("hello")
    waiting = asyncio.create_task(client.result(identity, wait_s=15))
    large = b"x" * 7_000_000
    await router.says(identity, "succeeded", large, **{headers.CONTENT_TYPE: "application/octet-stream"})
    assert (await waiting).value == large
    assert (await client.result(identity)).value == large


async def test_cancel(client: mayfly.Client, router: Router) -> None:
    """The owner's word counts."""
    await router.answers_cancel({"cancelled": False, "reason": "it runs"}, {"cancelled": True})
    identity = await client.invoke_async("hello")
    with pytest.raises(mayfly.CallError, match="it runs"):
        await client.cancel(identity)
    assert (await client.cancel(identity)).state == "cancelled"


async def test_dead_letters(client: mayfly.Client, router: Router, operator: Bus) -> None:
    """Listed in pages, read, driven again, purged."""
    for number in range(3):
        await router.buries("hello", b"%d" % number, "application/json")
    page = await client.dead_letters("hello", limit=2)
    assert [letter.sequence for letter in page] == [3, 2]
    assert [letter.sequence for letter in await client.dead_letters("hello", before=2)] == [1]
    assert (await client.dead_letter(1)).payload == b"0"
    assert (await client.purge("hello", [3])).count == 1
    assert (await client.redrive("hello")).count == 2
    assert {message.subject for message in await stored(operator, storage.SCHEDULES)} == {subjects.due("hello")}


async def test_a_full_backlog_is_throttled(anonymous: mayfly.Client, operator: Bus) -> None:
    """The error says so, and when to come back."""
    config = (await jetstream.api(operator, subjects.stream_info(storage.ASYNC)))["config"]
    await jetstream.api(operator, subjects.stream_update(storage.ASYNC), config | {"max_msgs_per_subject": 1})
    await anonymous.invoke_async("hello")
    with pytest.raises(mayfly.CallError) as caught:
        await anonymous.invoke_async("hello")
    assert (caught.value.kind, caught.value.retry_after_s) == (mayfly.ErrorType.THROTTLED, 5)
