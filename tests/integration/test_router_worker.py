"""Router, activator and the real worker with real instances."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mayfly_broker.server import EmbeddedServer
from mayfly_chassis.bus import Bus
from mayfly_chassis.kv import Bucket
from mayfly_proto import codec, headers, messages, records, storage, subjects
from mayfly_proto.errors import CallError, ErrorType
from tests.integration.router_peers import Platform, outcome
from tests.integration.worker_driver import Driver, node, until

SLOW = "import time\ndef handler(event, context):\n    time.sleep(event)\n    return event\n"
WRONG = "import no_such_module\n"


class Real:
    """The platform with one real node; ``deploy`` takes source."""

    def __init__(self, mayfly: Platform, operator: Bus) -> None:
        self.mayfly = mayfly
        self.driver = Driver(operator)

    async def deploy(self, name: str, source: str, version: int = 1, **fields: object) -> None:
        await self.driver.deploy(name, source, version, **fields)
        await self.mayfly.point(name, version, list(range(1, version + 1)))
        await self.mayfly.callable(name, version)


@pytest.fixture
async def real(mayfly: Platform, server: EmbeddedServer, tmp_path: Path) -> AsyncIterator[Real]:
    async with node(server, tmp_path / "n1"):
        await mayfly.router()
        await mayfly.activator()
        yield Real(mayfly, await mayfly.connect("operator"))


async def test_cold_then_warm_then_reclaimed(real: Real) -> None:
    """The first call says cold, the second warm; after keep_alive nothing is left, and the next is cold again."""
    await real.deploy("hello", "def handler(event, context):\n    return event\n", keep_alive_s=0.3)
    starts = []
    for _ in range(2):
        reply = await real.mayfly.caller.request("fn.hello", b'{"name": "Ada"}', timeout_s=20)
        assert outcome(reply) == {"name": "Ada"}
        starts.append(headers.parse(reply.headers)["Mayfly-Start"])
    assert starts == ["cold", "warm"]
    await until(real.driver.instances, lambda instances: instances == [])
    await real.mayfly.until(lambda state: state["functions"]["hello"]["ready"] == 0)
    reply = await real.mayfly.caller.request("fn.hello", b"1", timeout_s=20)
    assert headers.parse(reply.headers)["Mayfly-Start"] == "cold"


async def test_a_burst_is_answered_once_each_within_the_limit(real: Real) -> None:
    """Two hundred calls at once on nothing, four instances allowed: two hundred results, never more than four."""
    await real.deploy("burst", "def handler(event, context):\n    return event\n", max_instances=4)
    most = 0

    async def count() -> None:
        nonlocal most
        while True:
            most = max(most, len(await real.driver.instances()))
            await asyncio.sleep(0.01)

    counting = asyncio.create_task(count())
    replies = await asyncio.gather(
        *(real.mayfly.caller.request("fn.burst", b"%d" % k, timeout_s=30) for k in range(200))
    )
    counting.cancel()
    assert sorted(outcome(reply) for reply in replies) == list(range(200))
    assert 0 < most <= 4


async def test_an_import_error_is_told_with_its_traceback(real: Real) -> None:
    """The caller reads which module is missing."""
    await real.deploy("wrong", WRONG)
    error = await real.mayfly.call("fn.wrong")
    assert isinstance(error, CallError)
    assert error.kind is ErrorType.INIT_FAILED
    assert "no_such_module" in error.message + error.traceback


async def test_a_crashed_instance_frees_its_slot(real: Real) -> None:
    """kill -9 of the only instance allowed: its caller gets 502, the next call a new instance."""
    await real.deploy("slow", SLOW, max_instances=1, timeout_s=20)
    running = asyncio.create_task(real.mayfly.call("fn.slow", b"10"))
    await until(real.driver.instances, lambda instances: instances and instances[0].state == "busy")
    os.kill((await real.driver.instances())[0].pid, signal.SIGKILL)
    assert (await running).kind is ErrorType.INSTANCE_CRASHED
    assert await real.mayfly.call("fn.slow", b"0") == 0
    await real.mayfly.until(lambda state: state["functions"]["slow"]["in_flight"] == 0)


async def test_a_new_version_under_load_fails_no_call(real: Real) -> None:
    """Calls go on while five versions are deployed; the old instances leave."""
    source = "def handler(event, context):\n    return context.function_version\n"
    await real.deploy("live", source, max_instances=4)
    stop = asyncio.Event()

    async def keep_calling() -> list[object]:
        answers = []
        while not stop.is_set():
            answers.append(await real.mayfly.call("fn.live", b"null"))
        return answers

    callers = [asyncio.create_task(keep_calling()) for _ in range(4)]
    for version in range(2, 7):
        await real.deploy("live", source, version, max_instances=4)
        assert str(await real.mayfly.call("fn.live", b"null")) == str(version)
    stop.set()
    answers = [answer for caller in callers for answer in await caller]
    assert answers
    assert not [answer for answer in answers if isinstance(answer, CallError)]
    await until(real.driver.instances, lambda instances: {instance.version for instance in instances} == {6})


async def drain(bus: Bus, name: str, on: bool) -> None:
    """As the leading scaler does."""
    order = codec.pack(messages.Drain("s1", 1, on))
    reply = await bus.request(subjects.node_drain(name), order)
    assert codec.Unpacker(messages.Drained)(reply.payload)[0].reason == ""


async def state_of(mayfly: Platform, name: str, state: str) -> None:
    """Wait until a node says so of itself."""
    said = asyncio.Event()

    def hear(_subject: bytes, _reply: bytes, _raw: bytes | None, payload: bytes) -> None:
        if records.decode(payload, records.NodeLoad).state == state:
            said.set()

    bus = await mayfly.connect("operator")
    await bus.subscribe(subjects.load_node(name), hear)
    async with asyncio.timeout(15):
        await said.wait()


@pytest.mark.invariant("S24")
async def test_real_nodes_drain_in_turn_and_no_call_fails(real: Real, server: EmbeddedServer, tmp_path: Path) -> None:
    """Two nodes, each emptied and taken back while calls go on, of a function with a minimum and of one without: every
    call has its result, and the minimum never waits for the worker's own limit."""
    mayfly = real.mayfly
    async with node(server, tmp_path / "n2", node="n2"):
        await mayfly.until(lambda state: state["nodes"].get("n2", {}).get("usable"))
        source = "import time\ndef handler(event, context):\n    time.sleep(0.002)\n    return event\n"
        await real.deploy("floor", source, min_instances=2)
        await real.deploy("free", source)
        stop = asyncio.Event()

        async def keep_calling(name: str) -> list[object]:
            answers = []
            while not stop.is_set():
                answers.append(await mayfly.call(f"fn.{name}", b"1"))
            return answers

        callers = [asyncio.create_task(keep_calling(name)) for name in ("floor", "free") * 2]
        for name in ("n1", "n2", "n1", "n2"):
            await mayfly.until(lambda state: state["functions"]["floor"]["ready"] >= 2)
            async with asyncio.timeout(8):  # the worker would wait ten seconds for the owner
                await drain(real.driver.bus, name, True)
                await state_of(mayfly, name, "empty")
            await drain(real.driver.bus, name, False)
            await mayfly.until(lambda state, name=name: not state["nodes"][name]["draining"])
        stop.set()
        answers = [answer for caller in callers for answer in await caller]
        await mayfly.delete("floor")  # so that the last node need not wait for another
        await mayfly.until(lambda state: "floor" not in state["functions"])
    assert len(answers) > 100
    assert not [answer for answer in answers if isinstance(answer, CallError)]


async def test_real_nodes_keep_what_they_are_told_to_keep(real: Real) -> None:
    """A learned keep-alive ends an instance sooner than the version's default, but not the one that is the minimum."""
    targets = Bucket(await real.mayfly.connect("scaler"), storage.TARGETS)

    async def want(name: str, minimum: int) -> None:
        target = records.FunctionTarget(minimum=minimum, keep_alive_s=0.2, further_keep_alive_s=0.2)
        await targets.put(storage.function_target_key(name), records.encode(target))

    for name, minimum in (("kept", 1), ("let-go", 0)):
        await want(name, minimum)
        await real.deploy(name, "def handler(event, context):\n    return event\n")
        await asyncio.gather(*(real.mayfly.call(f"fn.{name}", b"1") for _ in range(3)))
    (kept,) = await until(
        real.driver.instances, lambda instances: [i.function for i in instances] == ["kept"], timeout_s=10
    )
    assert await real.mayfly.call("fn.kept", b"1") == 1
    assert [i.instance for i in await real.driver.instances()] == [kept.instance]
    await want("kept", 0)
    await until(real.driver.instances, lambda instances: instances == [])
