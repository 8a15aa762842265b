"""Events and durable calls at routers: real streams and consumers, a real worker or one that does as it is told."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from mayfly_broker.server import EmbeddedServer
from mayfly_chassis import jetstream
from mayfly_chassis.bus import Bus
from mayfly_chassis.errors import BusError
from mayfly_chassis.kv import Bucket
from mayfly_proto import headers, storage, subjects
from mayfly_proto.errors import CallError
from mayfly_proto.records import Batch, Package, Retries, Trigger, VersionSpec
from mayfly_registry.wiring import Wiring
from tests.integration.router_peers import Platform
from tests.integration.test_router_members import OF_R2, agree
from tests.integration.worker_driver import Driver, node, until

EVENT = Trigger(event="orders.>", number=1)
QUICK = Retries(attempts=3, backoff_s=0.05)
HANDLER = """
import time

def handler(event, context):
    if event == "raise":
        raise ValueError("no good")
    if isinstance(event, float):
        time.sleep(event)
    return event
"""


class Durable:
    """The platform, and what its streams hold."""

    def __init__(self, mayfly: Platform, registry: Bus, operator: Bus) -> None:
        self.mayfly = mayfly
        self.registry = registry
        self.operator = operator
        self.driver = Driver(operator)

    async def wire(self, name: str, version: int = 1, **fields: Any) -> dict[str, Any]:
        """What the registry makes before it publishes a version."""
        given: dict[str, Any] = {"triggers": [EVENT], "retries": QUICK} | fields
        package = Package(sha256="0", size=1, format="py", filename="f.py")
        spec = VersionSpec(
            name=name, version=version, runtime="python", handler="f:f", package=package, created="", **given
        )
        await Wiring(self.registry).prepare(spec, paused=False)
        return given

    async def scripted(self, name: str, **fields: Any) -> None:
        await self.mayfly.deploy(name, **await self.wire(name, **fields))

    async def real(self, name: str, source: str = HANDLER, version: int = 1, **fields: Any) -> None:
        await self.driver.deploy(name, source, version, **await self.wire(name, version, **fields))
        await self.mayfly.point(name, version, list(range(1, version + 1)))
        await self.mayfly.callable(name, version)

    async def publish(self, payload: bytes, subject: str = "event.orders.x", **fields: str) -> int:
        raw = headers.block(fields) if fields else None
        return await jetstream.publish(self.mayfly.caller, subject, payload, headers=raw)

    async def call(self, name: str, payload: bytes, **fields: str) -> str:
        raw = headers.block({key.replace("_", "-"): value for key, value in fields.items()})
        return f"A{await jetstream.publish(self.mayfly.caller, subjects.async_call(name), payload, headers=raw)}"

    async def result(self, identity: str, name: str, state: str = "succeeded", timeout_s: float = 20) -> Any:
        """The last word on a call, when it is that."""

        def is_it(message: Any) -> bool:
            return message is not None and headers.parse(message.headers)[headers.STATE] == state

        async def last() -> Any:
            with suppress(BusError):  # a question may be lost with a server that is restarted
                subject = subjects.result(identity, name)
                return await jetstream.last(self.operator, storage.RESULTS, subject, timeout_s=1)

        return (await until(last, is_it, timeout_s)).payload

    async def open(self, stream: str, consumer: str) -> int:
        """How many messages are not acknowledged."""
        info = await jetstream.api(self.operator, subjects.consumer_info(stream, consumer))
        return int(info["num_pending"]) + int(info["num_ack_pending"])

    async def done(self, stream: str, consumer: str, timeout_s: float = 20) -> None:
        await until(lambda: self.open(stream, consumer), lambda count: count == 0, timeout_s)

    async def letters(self, name: str) -> list[jetstream.Stored]:
        found: list[jetstream.Stored] = []
        await jetstream.every(self.operator, storage.DLQ, subjects.dead_letter(name), found.append)
        return found


@pytest.fixture
async def durable(mayfly: Platform) -> Durable:
    """Without routers and workers."""
    await mayfly.activator()
    return Durable(mayfly, await mayfly.connect("registry"), await mayfly.connect("operator"))


@pytest.fixture
async def real(durable: Durable, server: EmbeddedServer, tmp_path: Path) -> AsyncIterator[Durable]:
    """With one router and one real worker."""
    async with node(server, tmp_path / "n1"):
        await durable.mayfly.router()
        yield durable


# one router, a real worker


async def test_a_call_has_its_result_and_leaves_its_stream(real: Durable) -> None:
    """Stored first, then acknowledged: the work queue is empty."""
    await real.real("f")
    identity = await real.call("f", b'{"n":1}')
    assert json.loads(await real.result(identity, "f")) == {"n": 1}
    await real.done(storage.ASYNC, "f")
    assert (await real.driver.instances())[0].calls == 1


async def test_a_failing_call_is_tried_and_then_a_dead_letter(real: Durable) -> None:
    """Three attempts, each a schedule of the server's; what remains is one letter and the last error."""
    await real.real("f")
    identity = await real.call("f", b'"raise"', X_Own="1")
    error = json.loads(await real.result(identity, "f", "failed"))["error"]
    assert (error["type"], error["message"]) == ("function_error", "ValueError: no good")
    (letter,) = await real.letters("f")
    fields = headers.parse(letter.headers)
    assert (letter.payload, fields["X-Own"], fields[headers.ATTEMPTS]) == (b'"raise"', "1", "3")
    assert fields[headers.INVOCATION] == identity
    for stream in (storage.ASYNC, storage.SCHEDULES):
        await real.done(stream, "f")


async def test_a_subject_of_any_bytes_is_an_event(real: Durable) -> None:
    """It is run and acknowledged, and so is the next."""
    await real.real("f", on_success="event.seen")
    await real.mayfly.caller.request(b"event.orders.\xff\xfe", b"1")
    await real.publish(b"2")
    await real.done(storage.EVENTS, "f_1")
    seen: list[bytes] = []
    await jetstream.every(real.operator, storage.EVENTS, "event.seen", lambda message: seen.append(message.payload))
    assert set(seen) <= {b"1", b"2"}
    assert seen


async def test_nats_is_restarted_under_load(real: Durable, server: EmbeddedServer) -> None:
    """Questions to consumers, leases and outcomes that were on their way are lost; events are not."""
    await real.real("f", max_instances=4)
    calls = [await real.call("f", b"%d" % number) for number in range(50)]
    slow = [await real.call("f", b"0.5") for _ in range(4)]
    server.stop()
    server.start()
    assert [int(await real.result(call, "f", timeout_s=40)) for call in calls] == list(range(50))
    for call in slow:
        await real.result(call, "f", timeout_s=40)
    await real.done(storage.ASYNC, "f", 40)
    assert await real.letters("f") == []


async def test_what_waits_comes_again_in_the_form_of_the_next_version(real: Durable) -> None:
    """Deployed with batches while single events wait: each runs, none is lost."""
    await real.real("f", max_instances=1, timeout_s=10)
    await real.publish(b"1.0")
    for number in range(20):
        await real.publish(b"%d" % number)
    source = "def handler(events, context):\n    assert isinstance(events, list)\n    return len(events)\n"
    await real.real("f", source, 2, batch=Batch(size=50, window_s=0.2), max_instances=1, timeout_s=10)
    await real.done(storage.EVENTS, "f_1")
    assert await real.letters("f") == []


@pytest.mark.parametrize("fields", [{}, {"ordered": "subject.2"}])
async def test_a_call_that_waits_is_taken_back(real: Durable, fields: dict[str, Any]) -> None:
    """For its slot, or for one of its key before it; its idempotency key is free again."""
    await real.real("f", max_instances=1, timeout_s=10, **fields)
    running = await real.call("f", b"2.0")
    await until(real.driver.instances, lambda instances: instances and instances[0].state == "busy")
    waiting = await real.call("f", b'"never"', Mayfly_Idempotency_Key="k")
    await real.mayfly.until(lambda state: state["functions"]["f"]["queued"] == 1 or bool(fields))

    async def cancelled() -> bool:
        reply = await real.registry.request(subjects.cancel("f"), waiting.encode())
        return bool(json.loads(reply.payload)["cancelled"])

    assert await cancelled()
    assert await real.result(waiting, "f", "cancelled") == b""
    again = await real.call("f", b'"again"', Mayfly_Idempotency_Key="k")
    assert await real.result(again, "f") == b"again"
    await real.result(running, "f")
    assert (
        headers.parse((await jetstream.last(real.operator, storage.RESULTS, f"result.{waiting}.f")).headers)[  # type: ignore[union-attr]
            headers.STATE
        ]
        == "cancelled"
    )


async def test_a_claim_that_cannot_be_read_ends_no_router(real: Durable) -> None:
    """Whatever lies in the bucket: the call runs, and so does the next."""
    await real.real("f")
    first = await real.call("f", b"1", Mayfly_Idempotency_Key="k")
    await real.result(first, "f")
    bucket = Bucket(real.operator, storage.IDEMPOTENCY)
    for key in await bucket.load():
        await bucket.put(key, b"\xff{")
    again = await real.call("f", b"2", Mayfly_Idempotency_Key="k")
    assert await real.result(again, "f") == b"2"


# routers that come and go, a worker that does as it is told


async def test_a_router_that_is_killed_leaves_its_events_to_the_other(durable: Durable) -> None:
    """What runs is settled by the new owner and not run again; what waited at the old one comes to it."""
    mayfly = durable.mayfly
    worker = await mayfly.worker()
    victim = await mayfly.router_process("r2")
    await mayfly.router("r1")
    await agree(mayfly, "r1", "r2")
    await durable.scripted(OF_R2, max_instances=2)
    worker.held = asyncio.Event()
    calls = [await durable.call(OF_R2, b"%d" % number) for number in range(10)]
    await mayfly.until(lambda state: state["functions"][OF_R2]["in_flight"] == 2, "r2")
    victim.kill()
    await mayfly.until(lambda state: state["functions"].get(OF_R2, {}).get("in_flight") == 2, "r1")
    worker.held.set()
    for number, call in enumerate(calls):
        assert json.loads(await durable.result(call, OF_R2, timeout_s=30))["echo"] == str(number)
    await durable.done(storage.ASYNC, OF_R2)
    assert sum(worker.runs.values()) == 10


async def test_routers_come_and_go_under_load(durable: Durable) -> None:
    """Each event of a stream of them is run, and but for a few of them once."""
    mayfly = durable.mayfly
    worker = await mayfly.worker()
    worker.service_s = 0.01
    await mayfly.router("r1")
    await durable.scripted(OF_R2, max_instances=4)
    stop = asyncio.Event()

    async def keep_publishing() -> list[str]:
        calls: list[str] = []
        while not stop.is_set():
            calls.append(await durable.call(OF_R2, b"%d" % len(calls)))
            await asyncio.sleep(0.002)
        return calls

    publishing = asyncio.create_task(keep_publishing())
    for _ in range(2):
        second = await mayfly.router_process("r2")
        await mayfly.until(lambda state: OF_R2 in state["functions"], "r2")
        await asyncio.sleep(0.3)
        second.send_signal(signal.SIGTERM)
        assert await second.wait() == 0
    stop.set()
    calls = await publishing
    await durable.done(storage.ASYNC, OF_R2, 40)
    for call in calls:
        await durable.result(call, OF_R2)
    twice = [payload for payload, times in worker.runs.items() if times > 1]
    assert len(worker.runs) == len(calls)
    assert len(twice) <= len(calls) // 10
    assert await durable.letters(OF_R2) == []


async def test_an_order_is_kept_when_its_router_is_killed(durable: Durable) -> None:
    """Events of one key begin in their order, and one that ran before another is not followed by an older one."""
    mayfly = durable.mayfly
    worker = await mayfly.worker()
    victim = await mayfly.router_process("r2")
    await mayfly.router("r1")
    await agree(mayfly, "r1", "r2")
    await durable.scripted(OF_R2, ordered="subject.3", max_instances=4)
    worker.held = asyncio.Event()
    for number in range(6):
        await durable.publish(b"%d" % number, "event.orders.a")
    await mayfly.until(lambda state: state["functions"][OF_R2]["in_flight"] == 1, "r2")
    victim.kill()
    await mayfly.until(lambda state: state["functions"].get(OF_R2, {}).get("in_flight") == 1, "r1")
    worker.held.set()
    await durable.done(storage.EVENTS, f"{OF_R2}_1", 40)
    assert list(worker.runs) == [b"%d" % number for number in range(6)]
    assert set(worker.runs.values()) == {1}


async def test_an_order_goes_on_at_once_when_a_router_joins(durable: Durable) -> None:
    """What waited at the old owner is given back and comes to the new one: nobody waits for leases to end."""
    mayfly = durable.mayfly
    worker = await mayfly.worker()
    await mayfly.router("r1")
    await durable.scripted(OF_R2, ordered="subject.3", max_instances=4)
    worker.held = asyncio.Event()
    for number in range(6):
        await durable.publish(b"%d" % number, "event.orders.a")
    await mayfly.until(lambda state: state["functions"][OF_R2]["in_flight"] == 1, "r1")
    await mayfly.router_process("r2")
    await mayfly.until(lambda state: state["functions"].get(OF_R2, {}).get("in_flight") == 1, "r2")
    worker.held.set()
    await durable.done(storage.EVENTS, f"{OF_R2}_1", 8)
    assert list(worker.runs) == [b"%d" % number for number in range(6)]
    assert set(worker.runs.values()) == {1}


async def test_a_worker_that_dies_costs_an_attempt(durable: Durable) -> None:
    """Its events run elsewhere, at once."""
    mayfly = durable.mayfly
    worker = await mayfly.worker("n1")
    await mayfly.router()
    await durable.scripted("f", max_instances=2)
    worker.held = asyncio.Event()
    call = await durable.call("f", b"x")
    await mayfly.until(lambda state: state["functions"]["f"]["in_flight"] == 1)
    await mayfly.worker("n2")
    await worker.die()
    assert json.loads(await durable.result(call, "f", timeout_s=8))["attempt"] == 2
    await durable.done(storage.ASYNC, "f")


async def test_a_keyed_call_is_answered_whichever_router_has_it(durable: Durable) -> None:
    """The owner changes while the first of three runs: all get its result, also who came before and after that; and
    when the function is back, the key is not stuck there."""
    mayfly = durable.mayfly
    worker = await mayfly.worker()
    await mayfly.router("r1")
    await durable.scripted(OF_R2, max_instances=1, timeout_s=20)
    worker.held = asyncio.Event()
    key: dict[str, Any] = {headers.IDEMPOTENCY_KEY: "k"}
    first = [asyncio.create_task(mayfly.call(f"fn.{OF_R2}", b"%d" % number, **key)) for number in range(2)]
    await mayfly.until(lambda state: state["functions"][OF_R2]["in_flight"] == 1, "r1")
    second = await mayfly.router_process("r2")
    await mayfly.until(lambda state: state["functions"].get(OF_R2, {}).get("in_flight") == 1, "r2")
    late = asyncio.create_task(mayfly.call(f"fn.{OF_R2}", b"2", **key))
    await asyncio.sleep(0.2)
    worker.held.set()
    answers = await asyncio.gather(*first, late)
    assert len({answer["echo"] for answer in answers}) == 1
    assert sum(worker.runs.values()) == 1
    second.send_signal(signal.SIGTERM)
    await second.wait()
    again = await mayfly.call(f"fn.{OF_R2}", b"3", **key)
    assert not isinstance(again, CallError)
    assert again["echo"] == answers[0]["echo"]


async def test_who_waits_at_a_router_that_leaves_for_the_result_of_another_call_gets_it(durable: Durable) -> None:
    """SIGTERM while the first of two calls with one key runs: the result goes to the new owner, and the router that
    leaves stays until it has told it the second one."""
    mayfly = durable.mayfly
    worker = await mayfly.worker()
    leaver = await mayfly.router_process("r2")
    await mayfly.router("r1")
    await mayfly.until(lambda state: state["members"] == ["r1", "r2"], "r2")
    await durable.scripted(OF_R2, max_instances=1, timeout_s=20)
    worker.held = asyncio.Event()
    key: dict[str, Any] = {headers.IDEMPOTENCY_KEY: "k"}
    first = asyncio.create_task(mayfly.call(f"fn.{OF_R2}", b"first", **key))
    await mayfly.until(lambda state: state["functions"][OF_R2]["in_flight"] == 1, "r2")
    second = asyncio.create_task(mayfly.call(f"fn.{OF_R2}", b"second", **key))
    await mayfly.until(lambda state: state["functions"][OF_R2]["calls"] == 2, "r2")
    leaver.send_signal(signal.SIGTERM)
    await mayfly.until(lambda state: state["functions"].get(OF_R2, {}).get("in_flight") == 1, "r1")
    with suppress(TimeoutError):
        async with asyncio.timeout(0.5):
            await leaver.wait()  # which it would have done
    worker.held.set()
    assert [answer["echo"] for answer in await asyncio.gather(first, second)] == ["first", "first"]
    assert await leaver.wait() == 0
