"""The NATS micro service protocol, as callers and the ``nats`` command see it."""

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from mayfly_broker.server import EmbeddedServer
from mayfly_chassis.bus import Bus
from mayfly_chassis.micro import WAITING_PER_SLOT, Micro, Request
from mayfly_proto import errors, subjects
from mayfly_proto.errors import CallError, ErrorType
from tests.conftest import Connect, Eventually

SUBJECT = subjects.api("function", "list")


class Question(msgspec.Struct):
    name: str
    count: int = 1


class Service:
    """Some endpoints, and a door that holds back requests."""

    def __init__(self, bus: Bus, tasks: asyncio.TaskGroup) -> None:
        self.bus = bus
        self.micro = Micro(bus, "registry", "1.2.3", "Mayfly registry", tasks)
        self.door = asyncio.Event()
        self.inside = 0

    async def wait(self, _request: Request) -> bytes:
        self.inside += 1
        try:
            await self.door.wait()
        finally:
            self.inside -= 1
        return b"done"

    async def answer(self, request: Request) -> bytes:
        question = request.json(Question)
        if question.name == "nobody":
            raise CallError(ErrorType.NOT_FOUND, "no such function", component="registry")
        if question.name == "bug":
            raise RuntimeError("secret detail")
        return json.dumps({"count": question.count}).encode()


@pytest.fixture
async def service(connect: Connect) -> AsyncIterator[Service]:
    async with asyncio.TaskGroup() as tasks:
        service = Service(await connect("operator"), tasks)
        await service.micro.endpoint("list", SUBJECT, service.answer, queue="registry")
        await service.micro.endpoint("wait", "mayfly.api.function.wait", service.wait, limit=4)
        await service.micro.start()
        await service.bus.flush()
        yield service
        service.door.set()
        await service.micro.stop()


async def error_of(bus: Bus, payload: bytes) -> CallError:
    reply = await bus.request(SUBJECT, payload)
    error = errors.from_reply(reply.headers, reply.payload)
    assert error is not None
    return error


async def test_a_handlers_bytes_are_the_reply(service: Service, connect: Connect) -> None:
    """JSON in, JSON out; no error headers."""
    caller = await connect("gateway")
    reply = await caller.request(SUBJECT, b'{"name": "a", "count": 7}')
    assert json.loads(reply.payload) == {"count": 7}
    assert reply.headers is None


async def test_errors_reach_the_caller_as_errors(service: Service, connect: Connect) -> None:
    """A handler's `CallError` as it is, with the service as component; a wrong body names the field."""
    caller = await connect("gateway")
    missing = await error_of(caller, b'{"name": "nobody"}')
    assert (missing.kind, missing.message, missing.component) == (ErrorType.NOT_FOUND, "no such function", "registry")
    for payload, words in ((b'{"name": 1}', "$.name"), (b"{}", "name"), (b"", "name"), (b"\xff{", "")):
        wrong = await error_of(caller, payload)
        assert (wrong.kind, wrong.component) == (ErrorType.BAD_REQUEST, "registry")
        assert words in wrong.message


async def test_a_bugs_details_do_not_reach_the_caller(service: Service, connect: Connect) -> None:
    """An unexpected exception is logged, and the caller learns that it was one, no more; the service goes on."""
    caller = await connect("gateway")
    bug = await error_of(caller, b'{"name": "bug"}')
    assert bug.kind is ErrorType.INTERNAL
    assert "secret" not in bug.body().decode()
    assert (await caller.request(SUBJECT, b'{"name": "a"}')).headers is None


async def test_requests_run_side_by_side_up_to_the_limit(
    service: Service, connect: Connect, eventually: Eventually
) -> None:
    """One slow request stops nobody; more than may run wait; more than may wait are told to come back."""
    caller = await connect("operator")
    capacity = 4 * (1 + WAITING_PER_SLOT)
    futures = [caller.request_future("mayfly.api.function.wait") for _ in range(capacity + 3)]
    await eventually(lambda: sum(future.done() for future in futures) == 3)
    assert service.inside == 4
    refused = [errors.from_reply(*future.result()) for future in futures if future.done()]
    assert {(error.kind, error.retry_after_s) for error in refused if error} == {(ErrorType.THROTTLED, 1)}
    service.door.set()
    replies = [(await future).payload for future in futures]
    assert replies.count(b"done") == capacity


async def test_stopping_finishes_what_is_running_and_takes_nothing_new(
    service: Service, connect: Connect, eventually: Eventually
) -> None:
    """Whoever was let in gets an answer; whoever comes later finds nobody and can ask another instance."""
    caller = await connect("operator")
    future = caller.request_future("mayfly.api.function.wait")
    await eventually(lambda: service.inside == 1)
    stopping = asyncio.create_task(service.micro.stop())
    while await caller.request_many("mayfly.api.function.wait", replies=1, timeout_s=0.05):
        pytest.fail("a new request was answered")
    assert not stopping.done()
    service.door.set()
    await stopping
    assert (await future).payload == b"done"
    assert await caller.request_many("$SRV.PING", timeout_s=0.1) == []


async def test_discovery_finds_all_then_one_by_name_then_one_by_id(service: Service, connect: Connect) -> None:
    """PING, INFO and STATS on three subjects each, with the types that clients look for."""
    caller = await connect("operator")
    for verb in ("PING", "INFO", "STATS"):
        for address in ((), ("registry",), ("registry", service.micro.identity)):
            reply = await caller.request(subjects.service_verb(verb, *address))
            answer = json.loads(reply.payload)
            assert answer["type"] == f"io.nats.micro.v1.{verb.lower()}_response"
            assert (answer["name"], answer["id"]) == ("registry", service.micro.identity)


async def test_the_nats_command_sees_the_service(
    server: EmbeddedServer, service: Service, connect: Connect, nats_cli: str
) -> None:
    """``nats micro ls | info | stats | ping``: it drops answers silently that do not fit its schemas."""
    caller = await connect("gateway")
    await caller.request(SUBJECT, b'{"name": "a"}')
    await caller.request(SUBJECT, b'{"name": "nobody"}')
    access = [nats_cli, "--server", server.url, "--user", "operator", f"--password={server.passwords['operator']}"]

    async def nats(*command: str) -> str:
        run = [*access, "micro", *command]
        finished = await asyncio.to_thread(subprocess.run, run, capture_output=True, text=True, timeout=30)
        assert finished.returncode == 0, finished.stderr
        return str(finished.stdout + finished.stderr)

    listed: list[dict[str, Any]] = json.loads(await nats("ls", "--json"))
    assert [(one["name"], one["version"], one["description"]) for one in listed] == [
        ("registry", "1.2.3", "Mayfly registry")
    ]
    information = await nats("info", "registry")
    assert SUBJECT in information
    assert "1.2.3" in information
    statistics = json.loads(await nats("stats", "registry", "--json"))
    statistics = statistics[0] if isinstance(statistics, list) else statistics
    by_name = {endpoint["name"]: endpoint for endpoint in statistics["endpoints"]}
    assert (by_name["list"]["num_requests"], by_name["list"]["num_errors"]) == (2, 1)
    assert by_name["list"]["last_error"] == "404:no such function"
    assert "registry" in await nats("ping")
