"""Dead letters and durable calls through the registry, on a real server. Letters are put there as by a router."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest

from mayfly_broker.server import EmbeddedServer
from mayfly_chassis import jetstream
from mayfly_chassis.bus import Bus
from mayfly_chassis.kv import Bucket
from mayfly_chassis.service import running
from mayfly_proto import api, errors, headers, records, storage, subjects
from mayfly_proto.errors import CallError, ErrorType
from mayfly_registry.app import app
from mayfly_registry.config import RegistryConfig
from tests.conftest import Connect

T = TypeVar("T")


class Registry:
    def __init__(self, operator: Bus, router: Bus) -> None:
        self.operator = operator
        self.router = router

    async def ask(self, resource: str, verb: str, request: msgspec.Struct, kind: type[T]) -> T:
        reply = await self.operator.request(subjects.api(resource, verb), api.encode(request), timeout_s=30)
        if (error := errors.from_reply(reply.headers, reply.payload)) is not None:
            raise error
        return api.decode(reply.payload, kind)

    async def letters(self, **request: Any) -> list[int]:
        wanted = api.DeadLettersRequest(**request)
        found = await self.ask(api.DEAD_LETTERS, api.LIST, wanted, list[api.DeadLetter])
        return [letter.sequence for letter in found]

    async def change(self, verb: str, function: str, sequences: list[int] | None = None) -> api.DeadLettersChanged:
        wanted = api.DeadLettersChange(function=function, sequences=sequences)
        return await self.ask(api.DEAD_LETTERS, verb, wanted, api.DeadLettersChanged)

    async def bury(self, function: str, payload: bytes = b"{}", invocation: str = "E17") -> int:
        """As the router does with what failed for good."""
        ours = {
            headers.REASON: "raised 3 times",
            headers.ERROR: msgspec.json.encode(
                CallError(ErrorType.FUNCTION_ERROR, "ValueError: no", component="function", traceback="Tr...").detail()
            ).decode(),
            headers.ATTEMPTS: "3",
            headers.FAILED_AT: "2026-01-02T03:04:05Z",
            headers.INVOCATION: invocation,
            headers.EVENT_SUBJECT: "event.orders.created",
            headers.VERSION: "2",
        }
        theirs = {"Content-Type": "application/json", "ce-id": "7", headers.DEPTH: "2"}
        subject = subjects.dead_letter(function)
        return await jetstream.publish(self.router, subject, payload, headers=headers.block(ours | theirs))

    async def functions(self, *names: str) -> None:
        for name in names:
            record = records.FunctionRecord(name=name, current=1, versions=[1])
            await Bucket(self.operator, storage.FUNCTIONS).put(name, records.encode(record))

    async def due(self) -> list[jetstream.Stored]:
        """What waits to be run again."""
        found: list[jetstream.Stored] = []
        await jetstream.every(self.operator, storage.SCHEDULES, subjects.ALL_DUE, found.append)
        return found


@pytest.fixture
async def registry(server: EmbeddedServer, connect: Connect, tmp_path: Path) -> AsyncIterator[Registry]:
    password = tmp_path / "registry-password"
    password.write_text(server.passwords["registry"])
    config = RegistryConfig(nats_url=server.url, nats_password_file=password)
    async with running("registry", app, config):
        yield Registry(await connect("operator"), await connect("router"))


async def test_pages_go_back_from_the_newest(registry: Registry) -> None:
    """By function, newest first, page after page, over gaps and other functions' letters; the last page is short."""
    mine = []
    for number in range(25):
        mine.append(await registry.bury("hello"))
        if number % 3 == 0:
            await registry.bury("billing.charge")
    await registry.change(api.PURGE, "hello", mine[10:13])
    del mine[10:13]
    pages, before = [], None
    while page := await registry.letters(function="hello", limit=10, before=before):
        pages.append(page)
        before = page[-1]
    assert [len(page) for page in pages] == [10, 10, 2]
    assert [sequence for page in pages for sequence in page] == mine[::-1]
    assert len(await registry.letters()) == 22 + 9
    assert await registry.letters(function="nobody") == []
    for limit in (0, 1001):
        with pytest.raises(CallError, match="limit"):
            await registry.letters(limit=limit)


async def test_a_letter_says_all_there_is(registry: Registry) -> None:
    """A row has the reason and no payload; one by itself has headers, payload and traceback, and none of ours twice."""
    sequence = await registry.bury("hello", b'{"n": 1}')
    (row,) = await registry.ask(api.DEAD_LETTERS, api.LIST, api.DeadLettersRequest(), list[api.DeadLetter])
    assert (row.function, row.invocation, row.subject) == ("hello", "E17", "event.orders.created")
    assert (row.reason, row.attempts, row.size, row.failed_at) == ("raised 3 times", 3, 8, "2026-01-02T03:04:05Z")
    assert (row.payload, row.headers) == (None, {})
    assert row.error is not None
    assert (row.error.type, row.error.traceback) == ("function_error", "")
    wanted = api.DeadLetterRequest(sequence=sequence)
    full = await registry.ask(api.DEAD_LETTERS, api.SHOW, wanted, api.DeadLetter)
    assert full.payload == b'{"n": 1}'
    assert full.headers == {"Content-Type": "application/json", "ce-id": "7", headers.DEPTH: "2"}
    assert full.error is not None
    assert full.error.traceback == "Tr..."
    with pytest.raises(CallError) as caught:
        await registry.ask(api.DEAD_LETTERS, api.SHOW, api.DeadLetterRequest(sequence=99), api.DeadLetter)
    assert caught.value.kind is ErrorType.NOT_FOUND


async def test_a_letter_that_is_none_of_ours_is_shown(registry: Registry) -> None:
    """What somebody has put there by hand has no reason and no error, and breaks nothing."""
    await jetstream.publish(registry.operator, subjects.dead_letter("hello"), b"x", headers=b"NATS/1.0\r\nA: b\r\n\r\n")
    bad = headers.block({headers.ERROR: "{", headers.ATTEMPTS: "many"})
    await jetstream.publish(registry.operator, subjects.dead_letter("hello"), b"y", headers=bad)
    assert len(await registry.letters(function="hello")) == 2


async def test_redrive_goes_to_the_function_alone_and_empties_the_queue(registry: Registry) -> None:
    """Each is due once for its function, as a first attempt with its old id and its publisher's headers."""
    await registry.functions("hello", "other")
    for number in range(150):
        await registry.bury("hello", b"%d" % number, f"E{number + 1}")
    await registry.bury("other")
    assert (await registry.change(api.REDRIVE, "hello")).count == 150
    assert await registry.letters(function="hello") == []
    assert len(await registry.letters(function="other")) == 1
    due = await registry.due()
    assert {message.subject for message in due} == {subjects.due("hello")}
    assert {message.payload for message in due} == {b"%d" % number for number in range(150)}
    fields = headers.parse(due[0].headers)
    assert (fields[headers.INVOCATION], fields[headers.ATTEMPT]) == (f"E{int(due[0].payload) + 1}", "1")
    assert (fields["ce-id"], fields[headers.DEPTH]) == ("7", "2")
    assert fields[headers.EVENT_SUBJECT] == "event.orders.created"
    assert not {headers.REASON, headers.ERROR, headers.ATTEMPTS, headers.FAILED_AT, headers.VERSION} & set(fields)


async def test_redrive_that_died_before_deleting_runs_once(registry: Registry) -> None:
    """Published and not deleted, then driven again: one call, and the letter is gone."""
    await registry.functions("hello")
    sequence = await registry.bury("hello")
    message_id = headers.block({headers.MESSAGE_ID: f"redrive.{sequence}.E17"})  # what the killed one had published
    await jetstream.publish(registry.operator, subjects.due("hello"), b"{}", headers=message_id)
    assert (await registry.change(api.REDRIVE, "hello", [sequence])).count == 1
    assert len(await registry.due()) == 1
    assert await registry.letters() == []


async def test_a_letter_that_cannot_be_stored_as_due_stays(registry: Registry) -> None:
    """It is deleted after its publication is acknowledged, never before."""
    await registry.functions("hello")
    sequence = await registry.bury("hello", b"x" * 100)
    config = (await jetstream.api(registry.operator, subjects.stream_info(storage.SCHEDULES)))["config"]
    update = subjects.stream_update(storage.SCHEDULES)
    await jetstream.api(registry.operator, update, config | {"max_msg_size": 10})
    with pytest.raises(CallError) as caught:
        await registry.change(api.REDRIVE, "hello")
    assert caught.value.kind is ErrorType.UNAVAILABLE
    assert await registry.letters() == [sequence]


async def test_two_redrives_at_once_run_each_once(registry: Registry) -> None:
    """Whoever is slower finds nothing left to do."""
    await registry.functions("hello")
    for _ in range(40):
        await registry.bury("hello")
    changed = await asyncio.gather(*(registry.change(api.REDRIVE, "hello") for _ in range(2)))
    assert sum(each.count for each in changed) == 40
    assert len(await registry.due()) == 40


async def test_redrive_needs_the_function(registry: Registry) -> None:
    """Nothing would ever run it: the letters stay where they are. Another function's letter is refused, too."""
    sequence = await registry.bury("gone")
    await registry.functions("hello")
    for function, sequences, kind in (
        ("gone", None, ErrorType.NOT_FOUND),
        ("hello", [sequence], ErrorType.BAD_REQUEST),
        ("hello", [99], ErrorType.NOT_FOUND),
    ):
        with pytest.raises(CallError) as caught:
            await registry.change(api.REDRIVE, function, sequences)
        assert caught.value.kind is kind
    assert await registry.letters() == [sequence]
    assert (await registry.change(api.PURGE, "gone")).count == 1
    assert await registry.letters() == []


async def test_a_call_is_pending_until_its_result(registry: Registry) -> None:
    """Known from the publisher's acknowledgement on; then the last word on it counts, also when it has left ASYNC."""
    sequence = await jetstream.publish(registry.operator, subjects.async_call("billing.charge"), b"{}")
    wanted = api.InvocationRequest(id=f"A{sequence}")
    found = await registry.ask(api.INVOCATION, api.GET, wanted, api.Invocation)
    assert (found.function, found.state, found.attempts) == ("billing.charge", "pending", 0)
    assert found.time
    failed = CallError(ErrorType.FUNCTION_ERROR, "ValueError: no", component="function")
    retrying = {headers.STATE: "retrying", headers.ATTEMPTS: "1"}
    subject = subjects.result(wanted.id, "billing.charge")
    await jetstream.publish(registry.router, subject, failed.body(), headers=failed.headers(retrying))
    found = await registry.ask(api.INVOCATION, api.GET, wanted, api.Invocation)
    assert (found.state, found.attempts, found.payload) == ("retrying", 1, None)
    assert found.error is not None
    assert found.error.message == "ValueError: no"
    done = headers.block({headers.STATE: "succeeded", headers.ATTEMPTS: "2", headers.CONTENT_TYPE: "text/plain"})
    await jetstream.publish(registry.router, subject, b"ok", headers=done)
    found = await registry.ask(api.INVOCATION, api.GET, wanted, api.Invocation)
    assert (found.state, found.attempts, found.payload, found.content_type) == ("succeeded", 2, b"ok", "text/plain")


@pytest.mark.parametrize(
    ("identity", "kind"),
    [("A99", "not_found"), ("E1", "not_found"), ("a1", "bad_request"), ("A0", "bad_request"), ("A1.>", "bad_request")],
)
async def test_unknown_calls_are_said_to_be(registry: Registry, identity: str, kind: str) -> None:
    """What is no id is refused before it becomes a subject; what is not known is not found."""
    with pytest.raises(CallError) as caught:
        await registry.ask(api.INVOCATION, api.GET, api.InvocationRequest(id=identity), api.Invocation)
    assert caught.value.kind.value == kind


async def test_cancel_asks_the_owner(registry: Registry) -> None:
    """Without one 503 and nothing is lost; its yes is the answer, its no is a conflict with its reason."""
    sequence = await jetstream.publish(registry.operator, subjects.async_call("hello"), b"{}")
    wanted = api.InvocationRequest(id=f"A{sequence}")

    async def cancel() -> api.Invocation:
        return await registry.ask(api.INVOCATION, api.CANCEL, wanted, api.Invocation)

    with pytest.raises(CallError) as caught:
        await cancel()
    assert caught.value.kind is ErrorType.UNAVAILABLE
    answer: dict[str, Any] = {"cancelled": False, "reason": "it runs"}
    asked: list[bytes] = []

    def received(_subject: bytes, reply: bytes, _raw: bytes | None, payload: bytes) -> None:
        asked.append(payload)
        registry.router.publish(reply, json.dumps(answer).encode())

    await registry.router.subscribe(subjects.cancel("hello"), received, queue=subjects.ROUTER_QUEUE)
    await registry.router.flush()
    with pytest.raises(CallError, match="it runs") as caught:
        await cancel()
    assert caught.value.kind is ErrorType.CONFLICT
    answer = {"cancelled": True}
    assert (await cancel()).state == "cancelled"
    assert asked == [wanted.id.encode()] * 2


async def test_what_is_over_cannot_be_cancelled(registry: Registry) -> None:
    """Nobody is asked: a conflict that says how it ended."""
    done = headers.block({headers.STATE: "succeeded", headers.ATTEMPTS: "1"})
    await jetstream.publish(registry.router, subjects.result("A7", "hello"), b"1", headers=done)
    with pytest.raises(CallError, match="succeeded") as caught:
        await registry.ask(api.INVOCATION, api.CANCEL, api.InvocationRequest(id="A7"), api.Invocation)
    assert caught.value.kind is ErrorType.CONFLICT
