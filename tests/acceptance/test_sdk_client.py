"""The async client: everything that the command can do, from a Python program, over NATS."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import mayfly
from mayfly.platform_file import PlatformNotFound
from mayfly_chassis import jetstream
from mayfly_chassis.bus import Bus
from mayfly_chassis.objects import ObjectStore
from mayfly_proto.subjects import stream_create
from tests.acceptance.conftest import Platform

ECHO = b"""
import os, time

def handler(event, context):
    if event == "raise":
        raise ValueError("no good")
    if event == "sleep":
        time.sleep(20)
    if event == "env":
        return os.environ["GREETING"]
    print("seen", event)
    return event
"""
CONSTANT = b"def handler(event, context):\n    return %d\n"


@pytest.fixture
async def client(platform: Platform) -> AsyncIterator[mayfly.Client]:
    async with mayfly.Client(platform.data) as client:
        yield client


@pytest.fixture
async def echo(client: mayfly.Client) -> mayfly.Client:
    await client.deploy(ECHO, "sdk-echo", env={"GREETING": "hi"}, timeout=5)
    return client


@pytest.mark.parametrize("event", [{"name": "Ada"}, [1, 2.5, None], "text", "5", b"\x00\xff", b'"bytes"', None, True])
async def test_event_comes_back_as_it_was(echo: mayfly.Client, event: object) -> None:
    """What a handler is given and what it returns keep their type on the way: text that looks like JSON stays text."""
    result = await echo.invoke("sdk-echo", event)
    assert result.value == event
    assert type(result.value) is type(event)
    assert result.invocation


async def test_first_call_is_cold_and_says_its_version(client: mayfly.Client) -> None:
    """Cold calls say which version ran; warm ones say as little as possible."""
    await client.deploy(CONSTANT % 1, "sdk-cold")
    cold, warm = await client.invoke("sdk-cold"), await client.invoke("sdk-cold")
    assert (cold.cold, cold.version, warm.cold) == (True, 1, False)


@pytest.mark.parametrize(
    ("function", "event", "kind"),
    [
        ("sdk-echo", "raise", mayfly.ErrorType.FUNCTION_ERROR),
        ("sdk-nobody", None, mayfly.ErrorType.NOT_FOUND),
        ("sdk-echo@99", None, mayfly.ErrorType.NOT_FOUND),
        ("sdk-echo", b"x" * (8 << 20), mayfly.ErrorType.TOO_LARGE),
    ],
    ids=["raises", "unknown", "unknown-version", "too-large"],
)
async def test_errors_say_their_kind(echo: mayfly.Client, function: str, event: object, kind: mayfly.ErrorType) -> None:
    """A caller decides by kind, at once, not by text or by waiting; the next call works."""
    started = time.monotonic()
    with pytest.raises(mayfly.CallError) as caught:
        await echo.invoke(function, event)
    assert caught.value.kind is kind
    assert time.monotonic() - started < 10
    assert (await echo.invoke("sdk-echo", 1)).value == 1


async def test_call_ends_within_its_timeout(echo: mayfly.Client) -> None:
    """A slow function does not hold its caller longer than the caller said."""
    started = time.monotonic()
    with pytest.raises(mayfly.CallError) as caught:
        await echo.invoke("sdk-echo", "sleep", timeout_s=0.5)
    assert caught.value.kind in (mayfly.ErrorType.FUNCTION_TIMEOUT, mayfly.ErrorType.DEADLINE_EXCEEDED)
    assert time.monotonic() - started < 4


async def test_anonymous_client_calls_and_manages_nothing(echo: mayfly.Client, platform: Platform) -> None:
    """Whoever reaches NATS may call functions; deploying needs the operator's credentials."""
    async with mayfly.Client(nats=platform.nats) as stranger:
        assert (await stranger.invoke("sdk-echo", 7)).value == 7
        with pytest.raises(mayfly.CallError) as caught:
            await stranger.invoke("sdk-nobody")
        assert caught.value.kind is mayfly.ErrorType.NOT_FOUND
        with pytest.raises(mayfly.CallError) as caught:
            await stranger.deploy(ECHO, "sdk-mine")
        assert caught.value.kind is mayfly.ErrorType.FORBIDDEN


async def test_life_of_a_function(client: mayfly.Client, tmp_path: Path) -> None:
    """Deploy, list, describe, configure, versions, rollback, delete."""
    path = tmp_path / "sdk_life.py"
    path.write_bytes(ECHO)
    (first,) = await client.deploy(path, env={"GREETING": "one"})
    assert (first.name, first.version, first.unchanged) == ("sdk-life", 1, False)
    assert (await client.deploy(path, env={"GREETING": "one"}))[0].unchanged
    second = await client.configure("sdk-life", env={"GREETING": "two"}, memory=64)
    assert second.version == 2
    assert (await client.invoke("sdk-life", "env")).value == "two"
    assert (await client.invoke("sdk-life@1", "env")).value == "one"
    described = await client.describe("sdk-life")
    assert (described.memory_mb, described.source) == (64, ECHO.decode())
    assert (await client.rollback("sdk-life")).version == 1
    assert [(row.version, row.current) for row in await client.versions("sdk-life")] == [(2, False), (1, True)]
    assert "sdk-life" in [row.name for row in await client.list()]
    assert (await client.delete("sdk-life")).versions == 2
    with pytest.raises(mayfly.CallError):
        await client.describe("sdk-life")


async def test_deploy_from_an_object_of_nats(client: mayfly.Client, platform: Platform) -> None:
    """A pipeline that builds packages puts them into a bucket of its own."""
    bus = await Bus.connect(platform.nats, name="test", role="operator", user=platform.user, password=platform.password)
    try:
        config = {"name": "OBJ_builds", "subjects": ["$O.builds.>"], "allow_direct": True, "allow_rollup_hdrs": True}
        await jetstream.api(bus, stream_create("OBJ_builds"), config)
        await ObjectStore(bus, "builds").put("answer.py", CONSTANT % 42)
    finally:
        await bus.close()
    await client.deploy_object("sdk-object", "builds", "answer.py")
    assert (await client.invoke("sdk-object")).value == 42


async def test_logs_are_whole_and_go_on(echo: mayfly.Client) -> None:
    """Every line once, in order: those that are there, then those that come."""
    for number in range(3):
        await echo.invoke("sdk-echo", f"before {number}")

    async def following() -> list[str]:
        seen = []
        async for line in echo.logs("sdk-echo", follow=True):
            seen += [line.line] if line.line.startswith(("seen before", "seen after")) else []
            if seen[-1:] == ["seen before 2"]:
                asyncio.get_running_loop().create_task(echo.invoke("sdk-echo", "after"))
            if seen[-1:] == ["seen after"]:
                break
        return seen

    async with asyncio.timeout(20):
        assert await following() == ["seen before 0", "seen before 1", "seen before 2", "seen after"]


async def test_client_without_a_platform_says_so(tmp_path: Path) -> None:
    """Not a connection error to an address nobody has chosen."""
    with pytest.raises(PlatformNotFound, match="mayfly up"):
        async with mayfly.Client(tmp_path):
            pass
    with pytest.raises(RuntimeError, match="async with"):
        await mayfly.Client(tmp_path).invoke("hello")
