"""The command on durable calls, events and dead letters: with a real gateway and registry, and a router by hand."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest

from mayfly_broker.server import EmbeddedServer
from mayfly_chassis import jetstream
from mayfly_chassis.bus import Bus
from mayfly_proto import headers, storage
from tests.conftest import Connect
from tests.integration.durable_peers import Router, gateway_and_registry
from tests.integration.gateway import TOKEN, Gateway

MAYFLY = Path(sys.executable).with_name("mayfly")


class Done(NamedTuple):
    code: int
    out: str
    err: str


class Command:
    def __init__(self, http: Gateway) -> None:
        self._environ = {**os.environ, "MAYFLY_URL": http.url, "MAYFLY_TOKEN": TOKEN}
        self._environ.pop("MAYFLY_DATA", None)

    async def __call__(self, *arguments: str, input: bytes = b"") -> Done:
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            MAYFLY, *arguments, env=self._environ, stdin=pipe, stdout=pipe, stderr=pipe
        )
        out, err = await process.communicate(input)
        return Done(process.returncode or 0, out.decode(), err.decode())


@pytest.fixture
async def router(connect: Connect) -> Router:
    return Router(await connect("router"))


@pytest.fixture
async def mayfly(server: EmbeddedServer, tmp_path: Path, connect: Connect) -> AsyncIterator[Command]:
    async with gateway_and_registry(server, tmp_path, connect) as http:
        yield Command(http)


@pytest.fixture
async def operator(connect: Connect) -> Bus:
    return await connect("operator")


async def test_no_function_sees_the_token(mayfly: Command, operator: Bus) -> None:
    """The operator's command does not hand the key of the platform to the code that it calls."""
    await mayfly("invoke", "hello", "--async")
    ((_, found, _),) = await messages(operator, storage.ASYNC)
    assert TOKEN not in str(found)


async def messages(operator: Bus, stream: str) -> list[tuple[str, dict[str, str], bytes]]:
    found: list[jetstream.Stored] = []
    await jetstream.every(operator, stream, ">", found.append)
    return [(message.subject, headers.parse(message.headers), message.payload) for message in found]


async def test_an_async_call_prints_its_id(mayfly: Command, operator: Bus) -> None:
    """Nothing else on stdout, so that a script can keep it; event and key go along."""
    done = await mayfly("invoke", "hello", "--async", "-d", '{"n":1}', "--idempotency-key", "k1")
    assert done == (0, "A1\n", "")
    ((subject, found, payload),) = await messages(operator, storage.ASYNC)
    assert (subject, found[headers.IDEMPOTENCY_KEY], payload) == ("async.hello", "k1", b'{"n":1}')


@pytest.mark.parametrize(
    ("options", "header", "value"),
    [
        (["--in", "1.5m"], headers.DELAY, "90.000000000"),
        (["--in", "30"], headers.DELAY, "30.000000000"),
        (["--at", "2030-01-02T03:04:05+00:00"], headers.AT, None),
    ],
)
async def test_a_call_for_later_is_async(
    mayfly: Command, operator: Bus, options: list[str], header: str, value: str | None
) -> None:
    """--in and --at need no --async, and reach the router as its headers."""
    assert (await mayfly("invoke", "hello", *options)).out == "A1\n"
    ((_, found, _),) = await messages(operator, storage.ASYNC)
    assert found[header] == value or (value is None and found[header].startswith("2030-01-0"))


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (["invoke", "hello", "--in", "soon"], 2, "30s"),
        (["invoke", "hello", "--at", "noon"], 2, "2026"),
        (["invoke", "hello", "--in", "1s", "--at", "2030-01-01"], 2, "one of them"),
        (["invoke", "hello", "--async", "--timeout", "1"], 2, "--timeout"),
        (["invoke", "hello@1", "--async"], 1, "current"),
        (["invoke", "nobody", "--async"], 4, "nobody"),
        (["result", "A99"], 4, "A99"),
        (["result", "A99", "--wait"], 4, "A99"),
        (["result", "nonsense"], 1, "A17"),
        (["result", "A1", "--wait", "x"], 2, "seconds"),
        (["cancel", "A99"], 4, "A99"),
        (["publish", "a b"], 1, "event"),
        (["publish", "a", "-H", "novalue"], 2, "NAME:VALUE"),
        (["publish", "a", "@/does/not/exist"], 2, "cannot read"),
        (["dlq", "show", "99"], 4, "99"),
        (["dlq", "redrive", "nobody"], 4, "nobody"),
    ],
)
async def test_exit_codes(mayfly: Command, arguments: list[str], code: int, word: str) -> None:
    """A script can tell a mistake of its own from an unknown id, and from the platform's refusal."""
    done = await mayfly(*arguments)
    assert (done.code, done.out) == (code, ""), done
    assert word in done.err


async def test_a_result_is_printed_as_it_was_returned(mayfly: Command, router: Router) -> None:
    """JSON, text and bytes come out as the function gave them; -o json shows the record."""
    for identity, kind, payload in (
        ("A1", "application/json", '{"grüße":[1,null]}'),
        ("A2", "text/plain", '"quoted"'),
        ("A3", "application/octet-stream", "bytes"),
        ("A4", "application/json", "null"),
    ):
        await router.says(identity, "succeeded", payload.encode(), **{headers.CONTENT_TYPE: kind})
        assert await mayfly("result", identity) == (0, payload, "")
    (record,) = json.loads((await mayfly("result", "A2", "-o", "json")).out)
    assert (record["id"], record["state"], record["attempts"], record["result"]) == ("A2", "succeeded", 1, '"quoted"')


async def test_each_end_has_its_exit_code(mayfly: Command, router: Router) -> None:
    """3 with the function's error and traceback, 5 while there is none, 1 for a call that was taken back."""
    await router.failed("A1")
    done = await mayfly("result", "A1")
    assert (done.code, done.out) == (3, "")
    assert "ValueError: no (500 function_error)" in done.err
    assert "Tr..." in done.err
    await router.says("A2", "retrying")
    for wait in ([], ["--wait", "0.2"]):
        done = await mayfly("result", "A2", *wait)
        assert (done.code, "retrying" in done.err) == (5, True)
    await router.says("A3", "cancelled")
    assert (await mayfly("result", "A3")).code == 1


async def test_who_waits_gets_the_result(mayfly: Command, router: Router) -> None:
    """--wait without a number goes on until there is one."""
    await mayfly("invoke", "hello", "--async")
    waiting = asyncio.create_task(mayfly("result", "A1", "--wait"))
    await router.says("A1", "succeeded", b"7")
    assert await waiting == (0, "7", "")


async def test_cancel(mayfly: Command, router: Router) -> None:
    """Done is said; what has started is refused with the reason."""
    await router.answers_cancel({"cancelled": False, "reason": "it runs"}, {"cancelled": True})
    await mayfly("invoke", "hello", "--async")
    refused = await mayfly("cancel", "A1")
    assert (refused.code, "it runs" in refused.err) == (1, True)
    assert await mayfly("cancel", "A1") == (0, "cancelled A1\n", "")


async def test_publish(mayfly: Command, operator: Bus, tmp_path: Path) -> None:
    """Text, a file, standard input; with headers and an id; the event's id is printed."""
    file = tmp_path / "event"
    file.write_bytes(b"from a file")
    assert await mayfly("publish", "orders.created", "text", "-H", "x-tenant: a") == (0, "E1\n", "")
    assert (await mayfly("publish", "event.orders.created", f"@{file}")).out == "E2\n"
    assert (await mayfly("publish", "orders.created", "-", input=b"piped")).out == "E3\n"
    assert [(await mayfly("publish", "a", "--id", "m1")).out for _ in range(2)] == ["E4\n", "E4\n"]
    found = await messages(operator, storage.EVENTS)
    assert [(subject, payload) for subject, _, payload in found] == [
        ("event.orders.created", b"text"),
        ("event.orders.created", b"from a file"),
        ("event.orders.created", b"piped"),
        ("event.a", b""),
    ]
    assert found[0][1]["x-tenant"] == "a"


async def test_dead_letters(mayfly: Command, router: Router) -> None:
    """Listed, looked into, driven again one and all, purged."""
    assert await mayfly("dlq", "ls") == (0, "", "no dead letters\n")
    for number in range(5):
        await router.buries("hello", b'{"n": %d}' % number, "application/json")
    await router.buries("gone", b"x", "text/plain")
    table = (await mayfly("dlq", "ls", "hello")).out.splitlines()
    assert table[0].split() == ["SEQUENCE", "FUNCTION", "INVOCATION", "SUBJECT", "ATTEMPTS", "REASON", "FAILED", "AT"]
    assert [line.split()[0] for line in table[1:]] == ["5", "4", "3", "2", "1"]
    page = json.loads((await mayfly("dlq", "ls", "-n", "2", "--before", "4", "-o", "json")).out)
    assert [(row["sequence"], row["function"]) for row in page] == [(3, "hello"), (2, "hello")]
    shown = (await mayfly("dlq", "show", "1")).out
    assert "raised" in shown
    assert '"n": 0' in shown
    assert (await mayfly("dlq", "redrive", "hello", "1", "2")).out == "2 of hello run again\n"
    assert (await mayfly("dlq", "purge", "hello", "3", "4")).out == "removed 2 of hello\n"
    assert (await mayfly("dlq", "redrive", "hello")).out == "1 of hello run again\n"
    assert (await mayfly("dlq", "purge", "gone")).out == "removed 1 of gone\n"
