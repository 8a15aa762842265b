"""Calls through a node: results, errors, and what ends an instance."""

import asyncio
import json

import pytest

from mayfly_proto import codec, messages, subjects
from tests.integration.conftest import StartNode
from tests.integration.worker_driver import ECHO, NODE, Driver, until


@pytest.fixture
async def driver(start_node: StartNode) -> Driver:
    return await start_node()


async def test_first_call_is_cold_and_the_next_is_warm(driver: Driver) -> None:
    """start → Route Cache → result straight to the caller, `done` to the router."""
    await driver.up("hello")
    first = await driver.call("hello", b'{"name": "Ada"}')
    second = await driver.call("hello", b'{"name": "Ada"}')
    assert json.loads(first.payload) == json.loads(second.payload) == {"name": "Ada"}
    assert first.headers["Mayfly-Start"] == "cold"
    assert first.headers["Mayfly-Version"] == "1"
    assert float(first.headers["Mayfly-Duration-Ms"]) > 0
    assert second.headers == {"Mayfly-Invocation": "inv2", "Mayfly-Start": "warm"}
    await until(lambda: driver.finished == [1, 2])
    assert driver.done[-1].last_seq == 2


async def test_headers_and_attempt_reach_the_handler(driver: Driver) -> None:
    """The caller's header block passes through untouched."""
    source = (
        "def handler(event, context):\n    return [context.headers['X-Request'], context.attempt, context.invocation]\n"
    )
    await driver.up("hello", source)
    answer = await driver.call("hello", attempt=3)
    assert json.loads(answer.payload) == ["1", 3, "inv1"]


async def test_call_without_a_free_slot_is_the_routers_again(driver: Driver) -> None:
    """`busy`, at once and with the sequence; nothing was started."""
    await driver.deploy("hello")
    driver.send("hello")
    await until(lambda: driver.refused == [(1, "busy")])
    assert driver.finished == []


async def test_handler_that_raises_is_a_500_and_the_instance_lives_on(driver: Driver) -> None:
    """The caller gets type, message and traceback; the next call works in the same instance."""
    source = (
        "def handler(event, context):\n    if event == 'bad':\n        raise KeyError('no such')\n    return event\n"
    )
    await driver.up("hello", source)
    bad = await driver.call("hello", b'"bad"')
    assert (bad.kind, bad.headers["Nats-Service-Error-Code"]) == ("function_error", "500")
    assert bad.error is not None
    assert "KeyError" in bad.error.traceback
    assert bad.headers["Mayfly-Version"] == "1"
    good = await driver.call("hello", b'"good"')
    assert (good.payload, good.headers["Content-Type"]) == (b"good", "text/plain; charset=utf-8")
    assert len(await driver.instances()) == 1


async def test_results_that_cannot_be_sent_are_errors_not_silence(driver: Driver) -> None:
    """Not serialisable: bad_result. Above the limit: 413; exactly the limit passes."""
    source = "def handler(event, context):\n    return object() if event is None else b'x' * event\n"
    await driver.up("hello", source)
    limit = driver.bus.payload_limit
    assert (await driver.call("hello", b"null")).kind == "bad_result"
    assert len((await driver.call("hello", str(limit).encode())).payload) == limit
    assert (await driver.call("hello", str(limit + 1).encode())).kind == "too_large"
    assert (await driver.call("hello", b"3")).payload == b"xxx"


async def test_call_above_its_time_limit_is_a_504_and_its_instance_is_gone(driver: Driver) -> None:
    """In a busy loop as well; the slot is free again for the router, the route is withdrawn."""
    await driver.up("hello", "def handler(event, context):\n    while True: pass\n", timeout_s=0.2)
    answer = await driver.call("hello")
    assert (answer.kind, answer.headers["Nats-Service-Error-Code"]) == ("function_timeout", "504")
    await until(lambda: driver.finished == [1])
    await driver.gone("hello")
    await until(driver.instances, lambda instances: instances == [])


async def test_callers_budget_below_the_time_limit_counts(driver: Driver) -> None:
    """A call never runs on for a caller that has gone."""
    await driver.up("hello", "import time\ndef handler(event, context):\n    time.sleep(60)\n", timeout_s=60)
    assert (await driver.call("hello", budget_ms=150)).kind == "function_timeout"


async def test_call_whose_deadline_has_passed_is_not_started(driver: Driver) -> None:
    """408, and the instance is not killed for it."""
    await driver.up("hello")
    assert (await driver.call("hello", budget_ms=0)).kind == "deadline_exceeded"
    assert (await driver.call("hello")).kind == "ok"


async def test_crash_is_a_502_with_the_last_words(driver: Driver) -> None:
    """`os._exit` in a handler: the caller gets the code and stderr's last lines."""
    source = (
        "import os, sys\ndef handler(event, context):\n"
        "    print('last words', file=sys.stderr, flush=True)\n    os._exit(3)\n"
    )
    await driver.up("hello", source)
    answer = await driver.call("hello")
    assert (answer.kind, answer.headers["Nats-Service-Error-Code"]) == ("instance_crashed", "502")
    assert answer.error is not None
    assert "exited with code 3" in answer.error.message
    assert "last words" in answer.error.traceback
    await driver.gone("hello")


async def test_crash_while_idle_only_removes_the_instance(driver: Driver) -> None:
    """Nobody waits, nobody is told; the route goes."""
    source = "import os, threading\ndef handler(event, context):\n    threading.Timer(0.1, os._exit, [1]).start()\n"
    await driver.up("hello", source)
    assert (await driver.call("hello")).kind == "ok"
    await driver.gone("hello")
    assert await until(driver.instances, lambda instances: instances == []) == []


async def test_too_much_memory_is_told_as_such(driver: Driver) -> None:
    """502 out_of_memory, and the node lives."""
    source = "def handler(event, context):\n    return len(b'x' * (event << 20))\n"
    await driver.up("hello", source, memory_mb=64)
    answer = await driver.call("hello", b"512")
    assert (answer.kind, answer.headers["Nats-Service-Error-Code"]) == ("out_of_memory", "502")
    await driver.up("other")
    assert (await driver.call("other")).kind == "ok"


async def test_concurrent_calls_share_an_instance_and_its_end(driver: Driver) -> None:
    """With concurrency 3 one runs out of time: it gets 504, the others in the same instance 502."""
    source = "import asyncio\nasync def handler(event, context):\n    await asyncio.sleep(event)\n    return event\n"
    await driver.up("hello", source, concurrency=3, timeout_s=5.0)
    route = await driver.route("hello")
    assert route is not None
    assert route.slots == 3
    both = await asyncio.gather(driver.call("hello", b"0.05"), driver.call("hello", b"0.05"))
    assert [answer.kind for answer in both] == ["ok", "ok"]
    slow, other = driver.send("hello", b"60", budget_ms=300), driver.send("hello", b"60")
    assert (await slow).kind == "function_timeout"
    assert (await other).kind == "instance_crashed"
    await until(lambda: sorted(driver.finished) == [1, 2, 3, 4])


async def test_output_is_logged_with_its_invocation(driver: Driver) -> None:
    """stdout and stderr, a line a message, with the call they belong to."""
    source = "import sys\ndef handler(event, context):\n    print('out')\n    print('err', file=sys.stderr)\n"
    await driver.up("hello", source)
    await driver.call("hello")
    await until(lambda: len(driver.logs) >= 2)
    lines = {(line.stream, line.line): line for line in driver.logs}
    assert lines.keys() == {("stdout", "out"), ("stderr", "err")}
    line = lines["stdout", "out"]
    assert (line.function, line.version, line.instance, line.invocation) == ("hello", 1, "hello0", "inv1")


async def test_flood_of_output_is_bounded_and_counted(driver: Driver) -> None:
    """A function that prints without end cannot take the node down; what was dropped is said."""
    source = "def handler(event, context):\n    for n in range(60_000):\n        print('flood', n)\n"
    await driver.up("hello", source, timeout_s=30)
    await driver.up("other")
    flood = driver.send("hello")
    assert (await driver.call("other")).kind == "ok"
    assert (await flood).kind == "ok"
    driver.stop("hello")
    await until(lambda: any(line.stream == "platform" for line in driver.logs))
    assert len(driver.logs) < 10_000


async def test_garbage_frames_are_dropped_and_hurt_nobody(driver: Driver) -> None:
    """Whatever arrives on the node's subjects, the next call works."""
    await driver.up("hello")
    subject = subjects.node_invoke(NODE)
    for frame in (b"", b"x", b"\xff\xff\xff\xff", codec.pack(messages.Hold("r1", 1, "hello", 1, 1)), bytes(100)):
        driver.bus.publish(subject, frame)
        driver.bus.publish(subjects.node_adopt(NODE), frame)
    bad_router = messages.Invoke(1, "r1 x\r\n", 1, "hello", 1, "inv", "_INBOX.r1.9", 1000)
    driver.bus.publish(subject, codec.pack(bad_router))
    assert (await driver.call("hello")).kind == "ok"


async def test_result_is_not_published_where_no_caller_listens(driver: Driver) -> None:
    """A reply subject outside the inboxes could be a key of the Route Cache: the call runs, its result goes nowhere."""
    await driver.up("hello")
    key = subjects.kv("routes", "n1.1.evil")
    invoke = messages.Invoke(1, "r1", 1, "hello", 1, "inv", key, 1000)
    driver.seq = 1
    driver.bus.publish(subjects.node_invoke(NODE), codec.pack(invoke, b"1"))
    await until(lambda: driver.finished == [1])
    assert await driver.route("evil") is None


async def test_usage_is_recorded_when_an_instance_ends(driver: Driver) -> None:
    """What it cost: calls, time in handlers, CPU."""
    await driver.up("hello", ECHO, memory_mb=96)
    for _ in range(3):
        await driver.call("hello")
    driver.stop("hello")
    await until(lambda: driver.usage)
    usage = driver.usage[0]
    assert (usage.function, usage.instance, usage.node, usage.calls, usage.memory_mb) == (
        "hello",
        "hello0",
        NODE,
        3,
        96,
    )
    assert 0 < usage.busy_ms < usage.alive_ms
