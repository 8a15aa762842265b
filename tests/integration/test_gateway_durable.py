"""Durable calls and events by HTTP: what is answered 202 is in its stream, on a real NATS server."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from mayfly_broker.server import EmbeddedServer
from mayfly_chassis import jetstream
from mayfly_chassis.bus import Bus
from mayfly_proto import headers, storage, subjects
from tests.conftest import Connect
from tests.integration.gateway import Gateway, Platform, gateway

CLOUD_EVENT = {"specversion": "1.0", "id": "7", "source": "/shop", "type": "created"}


@pytest.fixture
async def platform(connect: Connect) -> Platform:
    return Platform(await connect("registry"), await connect("router"))


@pytest.fixture
async def operator(connect: Connect) -> Bus:
    return await connect("operator")


@pytest.fixture
async def http(server: EmbeddedServer, tmp_path: Path) -> AsyncIterator[Gateway]:
    async with gateway(server, tmp_path, store_timeout_s=1) as running:
        yield running


async def stored(operator: Bus, stream: str, subject: str = ">") -> list[jetstream.Stored]:
    found: list[jetstream.Stored] = []
    await jetstream.every(operator, stream, subject, found.append)
    return found


async def resize(operator: Bus, stream: str, **limits: int) -> None:
    config = (await jetstream.api(operator, subjects.stream_info(stream)))["config"]
    await jetstream.api(operator, subjects.stream_update(stream), config | limits)


async def test_durable_call_is_stored_before_it_is_accepted(http: Gateway, platform: Platform, operator: Bus) -> None:
    """202 has the id that the stream gave; body, headers, idempotency key and time are in the message, as asked."""
    await platform.publish("billing.charge")
    fields = {"Content-Type": "a/b", "Idempotency-Key": "k 1", "Mayfly-Delay": "1.5", "Mayfly-Depth": "7", "X-A": "b"}
    answer = await http.send("POST", "/async-function/billing.charge/more?x=1", b'{"n": 1}', fields)
    assert (answer.status, answer.json) == (202, {"id": "A1", "function": "billing.charge", "state": "pending"})
    assert answer.header("Location") == "/api/v1/invocations/A1"
    assert answer.header("Mayfly-Invocation") == "A1"
    (message,) = await stored(operator, storage.ASYNC)
    assert (message.subject, message.payload) == ("async.billing.charge", b'{"n": 1}')
    found = headers.parse(message.headers)
    assert found[headers.HTTP] == "POST /async-function/billing.charge/more?x=1"
    assert (found[headers.CONTENT_TYPE], found["x-a"]) == ("a/b", "b")
    assert (found[headers.IDEMPOTENCY_KEY], found[headers.DELAY]) == ("k 1", "1.5")
    assert headers.DEPTH not in found


async def test_credentials_do_not_lie_in_a_stream(http: Gateway, platform: Platform, operator: Bus) -> None:
    """What a caller proves itself with is not stored for whoever reads the stream, or the dead letters, later."""
    await platform.publish("hello")
    secrets = {"Authorization": "Bearer s3cret", "Cookie": "id=s3cret", "X-Api-Key": "s3cret"}
    assert (await http.send("POST", "/async-function/hello", b"1", secrets)).status == 202
    (message,) = await stored(operator, storage.ASYNC)
    assert b"s3cret" not in message.headers


@pytest.mark.parametrize(
    ("path", "fields", "status", "word"),
    [
        ("nobody", {}, 404, "nobody"),
        ("hello@1", {}, 400, "current"),
        ("hello", {"Mayfly-At": "tomorrow"}, 400, "Mayfly-At"),
        ("hello", {"Mayfly-At": "2026-01-02T03:04:05"}, 400, "Mayfly-At"),
        ("hello", {"Mayfly-At": "2026-13-02T03:04:05Z"}, 400, "Mayfly-At"),
        ("hello", {"Mayfly-Delay": "-1"}, 400, "Mayfly-Delay"),
        ("hello", {"Mayfly-Delay": "nan"}, 400, "Mayfly-Delay"),
        ("hello", {"Mayfly-Delay": "1", "Mayfly-At": "2026-01-02T03:04:05Z"}, 400, "one of them"),
        ("hello", {"Idempotency-Key": "x" * 256}, 400, "Idempotency-Key"),
        ("hello", {"Nats-Msg-Id": "a b"}, 400, "Nats-Msg-Id"),
        ("hello", {"Content-Length": str(9 << 20)}, 413, "larger"),
        ("hello", {"X-Long": "x" * 40_000}, 413, "headers"),
    ],
)
async def test_what_cannot_be_meant_is_not_stored(
    http: Gateway, platform: Platform, operator: Bus, path: str, fields: dict[str, str], status: int, word: str
) -> None:
    """An unknown function, a version, a senseless header: an error that names it, and nothing in the stream."""
    await platform.publish("hello")
    answer = await http.send("POST", f"/async-function/{path}", b"", fields)
    assert (answer.status, word in answer.error["message"]) == (status, True), answer.body
    assert await stored(operator, storage.ASYNC) == []


async def test_durable_calls_are_posted(http: Gateway, platform: Platform) -> None:
    """Another method is refused with those that are taken."""
    await platform.publish("hello")
    answer = await http.send("GET", "/async-function/hello")
    assert (answer.status, answer.header("Allow")) == (405, "DELETE, POST")
    answer = await http.send("PUT", "/event/a")
    assert (answer.status, answer.header("Allow")) == (405, "POST")


async def test_a_full_backlog_throttles_its_function_alone(http: Gateway, platform: Platform, operator: Bus) -> None:
    """429 with Retry-After for whoever has too much waiting; its neighbour is served."""
    await platform.publish("busy")
    await platform.publish("idle")
    await resize(operator, storage.ASYNC, max_msgs_per_subject=3)
    assert [(await http.send("POST", "/async-function/busy")).status for _ in range(4)] == [202, 202, 202, 429]
    answer = await http.send("POST", "/async-function/busy")
    assert (answer.error["type"], int(answer.header("Retry-After") or 0) > 0) == ("throttled", True)
    assert (await http.send("POST", "/async-function/idle")).status == 202
    assert len(await stored(operator, storage.ASYNC)) == 4


async def test_a_full_stream_is_unavailable(http: Gateway, platform: Platform, operator: Bus) -> None:
    """No function is to blame when the stream itself is full: 503, for calls and for events."""
    await platform.publish("hello")
    for stream, path in ((storage.ASYNC, "/async-function/hello"), (storage.EVENTS, "/event/a")):
        await resize(operator, stream, max_bytes=2000)
        answer = await http.send("POST", path, b"x" * 3000)
        assert (answer.status, answer.error["type"]) == (503, "unavailable")
        assert await stored(operator, stream) == []


async def test_without_a_stream_nothing_is_accepted(http: Gateway, platform: Platform, operator: Bus) -> None:
    """Nobody acknowledges: 503 when the time for that is over, never a false 202."""
    await platform.publish("hello")
    await jetstream.api(operator, f"$JS.API.STREAM.DELETE.{storage.ASYNC}")
    answer = await http.send("POST", "/async-function/hello")
    assert (answer.status, answer.header("Retry-After")) == (503, "1")


async def test_a_lost_acknowledgement_stores_once(server: EmbeddedServer, tmp_path: Path, connect: Connect) -> None:
    """The server dies again and again while calls are posted: each is accepted with its own id, and is there once."""
    platform, operator = Platform(await connect("registry"), await connect("router")), await connect("operator")
    await platform.publish("hello")
    over = asyncio.Event()
    async with gateway(server, tmp_path, store_timeout_s=20) as http:

        async def post(poster: int) -> list[tuple[str, str]]:
            accepted = []
            number = 0
            while not over.is_set():
                body = f"{poster}.{number}"
                answer = await http.send("POST", "/async-function/hello", body, timeout_s=40)
                assert answer.status == 202, answer.body
                accepted.append((answer.json["id"], body))
                number += 1
            return accepted

        posters = [asyncio.create_task(post(number)) for number in range(4)]
        for _ in range(3):
            await asyncio.sleep(0.3)
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
        await asyncio.sleep(0.3)
        over.set()
        accepted = [each for task in posters for each in await task]
    found = [(f"A{message.sequence}", message.payload.decode()) for message in await stored(operator, storage.ASYNC)]
    assert sorted(found) == sorted(accepted)
    assert len(accepted) > 20


@pytest.mark.parametrize(
    "path", ["orders/eu/created", "orders.eu.created", "orders/eu.created/", "orders%2Feu/created"]
)
async def test_an_event_by_path(http: Gateway, operator: Bus, path: str) -> None:
    """Slashes and dots are the same; the answer has the event's id and subject."""
    answer = await http.send("POST", f"/event/{path}", b'{"n": 1}', {"Content-Type": "application/json"})
    assert (answer.status, answer.json) == (202, {"id": "E1", "subject": "event.orders.eu.created"})
    (message,) = await stored(operator, storage.EVENTS)
    assert (message.subject, message.payload) == ("event.orders.eu.created", b'{"n": 1}')
    assert headers.parse(message.headers)[headers.CONTENT_TYPE] == "application/json"


async def test_an_events_headers_are_the_publishers_less_his_secrets(http: Gateway, operator: Bus) -> None:
    """What describes the event stays; credentials, the connection's and the platform's own headers do not."""
    sent = {"X-Tenant": "a", "traceparent": "00-1", "Authorization": "Bearer x", "Cookie": "c=1", "Accept": "*/*"}
    await http.send("POST", "/event/a", b"x", sent | {"Mayfly-Depth": "7", "Nats-TTL": "1s", "User-Agent": "curl"})
    (message,) = await stored(operator, storage.EVENTS)
    found = {name for name in headers.parse(message.headers) if not name.startswith("Nats-")}
    assert found == {"x-tenant", "traceparent"}


@pytest.mark.parametrize("path", ["", "a//b", "a..b", "a/*", "a/%3E", "a/b%20c", "a/b%0d%0ac", "a" * 1001])
async def test_what_is_no_subject_is_refused(http: Gateway, operator: Bus, path: str) -> None:
    """Wildcards, empty words, spaces and line breaks name no event."""
    answer = await http.send("POST", f"/event/{path}", b"x")
    assert (answer.status, answer.error["type"]) == (400, "bad_request")
    assert await stored(operator, storage.EVENTS) == []


async def test_a_message_id_stores_an_event_once(http: Gateway, operator: Bus) -> None:
    """Sent again with the same Nats-Msg-Id it gets the first one's id."""
    ids = [(await http.send("POST", "/event/a", b"x", {"Nats-Msg-Id": "m1"})).json["id"] for _ in range(2)]
    other = await http.send("POST", "/event/a", b"x", {"Nats-Msg-Id": "m2"})
    assert (ids, other.json["id"]) == (["E1", "E1"], "E2")
    assert len(await stored(operator, storage.EVENTS)) == 2


async def test_a_call_with_a_message_id_is_its_functions_alone(http: Gateway, platform: Platform) -> None:
    """The same id for two functions is two calls."""
    await platform.publish("one")
    await platform.publish("other")
    ids = [
        (await http.send("POST", f"/async-function/{name}", b"", {"Nats-Msg-Id": "m"})).json["id"]
        for name in ("one", "one", "other")
    ]
    assert ids == ["A1", "A1", "A2"]


async def test_binary_and_structured_cloud_events_are_published_alike(http: Gateway, operator: Bus) -> None:
    """Whatever form HTTP has, subscribers see ce-* headers and the bare data; the same event is stored once."""
    binary = {f"ce-{name}": value for name, value in CLOUD_EVENT.items()} | {"Content-Type": "application/json"}
    first = await http.send("POST", "/event/orders", b'{"n":1}', binary)
    body = json.dumps(CLOUD_EVENT | {"data": {"n": 1}}, separators=(",", ":"))
    structured = {"Content-Type": "application/cloudevents+json; charset=utf-8"}
    again = await http.send("POST", "/event/orders", body, structured)
    other = await http.send("POST", "/event/orders/eu", body, structured)
    assert (first.status, first.json["id"], again.json["id"], other.json["id"]) == (202, "E1", "E1", "E2")
    one, two = await stored(operator, storage.EVENTS)
    assert one.payload == two.payload == b'{"n":1}'
    for message in (one, two):
        found = {name: value for name, value in headers.parse(message.headers).items() if not name.startswith("Nats-")}
        assert found == {"Content-Type": "application/json"} | {f"ce-{k}": v for k, v in CLOUD_EVENT.items()}


async def test_a_batch_is_several_events_in_its_order(http: Gateway, operator: Bus) -> None:
    """Each has an id in the answer; one wrong event, and none is stored."""
    batch: list[dict[str, Any]] = [CLOUD_EVENT | {"id": str(number), "data": number} for number in range(300)]
    kind = {"Content-Type": "application/cloudevents-batch+json"}
    wrong = await http.send("POST", "/event/orders", json.dumps([*batch, {"id": "x"}]), kind)
    assert (wrong.status, "event 300: source" in wrong.error["message"]) == (400, True)
    assert await stored(operator, storage.EVENTS) == []
    answer = await http.send("POST", "/event/orders", json.dumps(batch), kind)
    assert answer.status == 202
    assert [each["id"] for each in answer.json["events"]] == [f"E{number + 1}" for number in range(300)]
    assert [int(message.payload) for message in await stored(operator, storage.EVENTS)] == list(range(300))
    assert (await http.send("POST", "/event/orders", b"[]", kind)).json == {"events": []}


async def test_a_batch_that_is_stored_in_part_says_which(http: Gateway, operator: Bus) -> None:
    """The stream is full in the middle: an error, and the numbers of those that are safe."""
    await resize(operator, storage.EVENTS, max_msgs=3)
    batch = [CLOUD_EVENT | {"id": str(number)} for number in range(5)]
    kind = {"Content-Type": "application/cloudevents-batch+json"}
    answer = await http.send("POST", "/event/orders", json.dumps(batch), kind)
    assert answer.status == 503
    assert answer.error["message"].startswith("3 of 5 events were stored (0-2): ")
    assert len(await stored(operator, storage.EVENTS)) == 3
