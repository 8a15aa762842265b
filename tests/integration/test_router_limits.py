"""A full cluster, waits that are too long and calls that come too often, through a real router on a real server."""

import asyncio
from typing import Any

import pytest

from mayfly_chassis.bus import Bus
from mayfly_proto import codec, headers, messages, ownership, records, subjects
from mayfly_proto.errors import CallError, ErrorType
from mayfly_proto.records import Shares
from tests.conftest import Eventually
from tests.integration.router_peers import Platform, ScriptedWorker, outcome

MB = 128
OF_R2 = next(f"f{n}" for n in range(99) if ownership.owner(f"f{n}", ["r1", "r2"]) == "r2")


class Scaler:
    """The leading scaler's voice and ear."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self.blocked: list[messages.Blocked] = []

    async def listen(self) -> None:
        unpack = codec.Unpacker(messages.Blocked)
        await self._bus.subscribe(subjects.BLOCKED, lambda _s, _r, _raw, frame: self.blocked.append(unpack(frame)[0]))
        await self._bus.flush()

    async def say(self, **shares: int) -> None:
        """What is sent to a router after this comes after it."""
        self._bus.publish(subjects.SHARES, records.encode(Shares(epoch=1, shares=shares)))
        await self._bus.flush()


@pytest.fixture
async def mayfly(mayfly: Platform) -> Platform:
    """With a router and an activator."""
    await mayfly.router()
    await mayfly.activator()
    return mayfly


@pytest.fixture
async def scaler(mayfly: Platform) -> Scaler:
    scaler = Scaler(await mayfly.connect("scaler"))
    await scaler.listen()
    return scaler


async def worker_with(mayfly: Platform, instances: int) -> ScriptedWorker:
    """A node with room for so many, that does what it is told, and whose calls end when the test says so."""
    worker = await mayfly.worker(memory_mb=instances * MB)
    worker.obedient = True
    worker.held = asyncio.Event()
    return worker


async def running(mayfly: Platform, function: str, number: int, waiting: int = 0) -> list[asyncio.Task[Any]]:
    """So many calls of it run, and so many wait. Returns those that are new."""
    already = (await mayfly.state())["functions"][function]["in_flight"]
    wanted = number + waiting - already
    calls = [asyncio.create_task(mayfly.call(f"fn.{function}", b"%d" % n)) for n in range(wanted)]

    def are_there(state: Any) -> bool:
        load = state["functions"][function]
        return bool((load["in_flight"], load["queued"]) == (number, waiting))

    await mayfly.until(are_there)
    return calls


def instances(worker: ScriptedWorker, function: str) -> int:
    return sum(name == function for name, _, _, _ in worker.slots.values())


@pytest.mark.invariant("S29")
async def test_a_function_above_its_share_gives_way_and_its_calls_end_well(
    mayfly: Platform, scaler: Scaler, eventually: Eventually
) -> None:
    """Four calls run and the share becomes two: all four get their result, two instances go, and the calls that wait
    have the other two."""
    worker = await worker_with(mayfly, 4)
    await mayfly.deploy("noisy", memory_mb=MB, activation="eager")
    calls = await running(mayfly, "noisy", 4, waiting=4)
    await scaler.say(noisy=2)
    await mayfly.state()
    assert worker.held is not None
    worker.held.set()
    answers = await asyncio.gather(*calls)
    assert sorted(answer["echo"] for answer in answers) == sorted(str(n) for n in range(8))
    await eventually(lambda: instances(worker, "noisy") == 2)
    assert sum(stop.count for stop in worker.stops) == 2
    assert not worker.refusals


@pytest.mark.invariant("S30")
async def test_a_small_function_gets_its_place_when_one_call_has_ended(
    mayfly: Platform, scaler: Scaler, eventually: Eventually
) -> None:
    """Every place is taken by calls that run, and others wait. A call of a small function is blocked, the scaler says
    shares, one of the noisy one's calls ends: the small one runs next, though many of the others came before it."""
    worker = await worker_with(mayfly, 3)
    await mayfly.deploy("noisy", memory_mb=MB, activation="eager")
    await mayfly.deploy("small", memory_mb=MB)
    calls, ends = [], []
    for number in (1, 2, 3):
        worker.held = asyncio.Event()
        ends.append(worker.held)
        calls.append(asyncio.create_task(mayfly.call("fn.noisy", b"running")))
        await eventually(lambda number=number: len(worker.running) == number)
    worker.held = None
    calls += await running(mayfly, "noisy", 3, waiting=20)
    small = asyncio.create_task(mayfly.call("fn.small"))
    await eventually(lambda: any(blocked.function == "small" for blocked in scaler.blocked))
    await scaler.say(noisy=2)
    ends[1].set()
    assert (await small)["echo"] == "x"
    assert len(worker.running) == 2 and not worker.refusals
    assert sum(worker.runs.values()) == 4, "nobody else came in between"
    for end in ends:
        end.set()
    assert not any(isinstance(answer, CallError) for answer in await asyncio.gather(*calls))


async def test_an_order_without_a_place_is_told_to_the_scaler_and_not_all_the_time(
    mayfly: Platform, scaler: Scaler, eventually: Eventually
) -> None:
    """What is lacking and why, with enough to find a place by; not more often than every 50 ms."""
    await mayfly.worker(memory_mb=100)
    await mayfly.deploy(memory_mb=MB)
    loop = asyncio.get_running_loop()
    started = loop.time()
    assert (await mayfly.call()).kind is ErrorType.NO_CAPACITY
    blocked = scaler.blocked[0]
    assert (blocked.router, blocked.function, blocked.version, blocked.instances) == ("r1", "f", 1, 1)
    assert (blocked.memory_mb, blocked.reason) == (MB, messages.Refusal.NO_ROOM)
    assert len(scaler.blocked) <= 1 + (loop.time() - started) / 0.05


async def test_no_room_is_no_503_while_there_are_shares(mayfly: Platform, scaler: Scaler) -> None:
    """While the scaler shares out what there is a call waits for its turn until its own deadline."""
    await mayfly.worker(memory_mb=100)
    await mayfly.deploy(memory_mb=MB)
    waiting = asyncio.create_task(mayfly.call(**{headers.TIMEOUT_MS: "1800"}))
    while not waiting.done():
        await scaler.say(other=1)
        await asyncio.sleep(0.1)
    assert (await waiting).kind is ErrorType.DEADLINE_EXCEEDED


@pytest.mark.invariant("I32")
async def test_a_scaler_that_is_gone_limits_nobody(mayfly: Platform, scaler: Scaler, eventually: Eventually) -> None:
    """Three seconds after the scaler's last word a function grows again, within its own limit."""
    worker = await worker_with(mayfly, 10)
    await mayfly.deploy("f", memory_mb=MB, activation="eager", max_instances=5)
    await scaler.say(f=2)
    calls = await running(mayfly, "f", 2, waiting=6)
    await mayfly.until(lambda state: state["functions"]["f"]["in_flight"] == 5)
    assert worker.held is not None
    worker.held.set()
    assert not any(isinstance(answer, CallError) for answer in await asyncio.gather(*calls))
    assert worker.most == 5


@pytest.mark.invariant("P31")
async def test_a_wait_that_is_too_long_gets_429_with_its_length(mayfly: Platform, eventually: Eventually) -> None:
    """One instance, calls of half a second, and a router that lets nobody wait for more than a second."""
    await mayfly.router("r2", wait_s=1.0)
    await mayfly.until(lambda state: state["members"] == ["r1", "r2"], "r2")
    worker = await mayfly.worker()
    worker.service_s = 0.5
    await mayfly.deploy(OF_R2, max_instances=1, timeout_s=10)
    assert "echo" in await mayfly.call(f"fn.{OF_R2}")
    answers = await asyncio.gather(*(mayfly.call(f"fn.{OF_R2}") for _ in range(8)))
    errors = [answer for answer in answers if isinstance(answer, CallError)]
    assert {error.kind for error in errors} == {ErrorType.THROTTLED}
    assert 3 <= len(errors) <= 5, "one runs, and two or three are worth waiting for"
    assert {error.retry_after_s for error in errors} == {2}
    assert (await mayfly.state("r2"))["functions"][OF_R2]["throttled"] == len(errors)


@pytest.mark.invariant("P31")
async def test_calls_per_second_are_exact_at_the_owner(mayfly: Platform) -> None:
    """Of thirty calls at once to a function of ten a second ten get through, and the others are told when to come."""
    await mayfly.worker()
    await mayfly.deploy(rate_limit=10.0)
    answers = await asyncio.gather(*(mayfly.call() for _ in range(30)))
    refused = [answer for answer in answers if isinstance(answer, CallError)]
    assert 19 <= len(refused) <= 20
    assert {(error.kind, error.retry_after_s) for error in refused} == {(ErrorType.THROTTLED, 1)}
    assert (await mayfly.state())["functions"]["f"]["throttled"] == len(refused)


async def test_each_connection_has_its_own_limit_and_the_gateway_says_whose_calls_it_sends(mayfly: Platform) -> None:
    """Two clients have two calls a second each; a header of their own changes nothing. Those for whom the gateway calls
    have theirs, whoever shares its connection."""
    await mayfly.worker()
    await mayfly.deploy(caller_rate_limit=2.0)
    gateway, other = await mayfly.connect("gateway"), await mayfly.connect("client")

    async def passed(bus: Bus, caller: str, calls: int = 5) -> int:
        raw = headers.block({headers.CALLER: caller})
        replies = await asyncio.gather(*(bus.request("fn.f", b"x", headers=raw) for _ in range(calls)))
        return sum(not isinstance(outcome(reply), CallError) for reply in replies)

    assert await passed(mayfly.caller, "a") == 2
    assert await passed(mayfly.caller, "b", calls=1) == 0, "it stays who it is"
    assert await passed(other, "a") == 2
    assert await passed(gateway, "203.0.113.7") == 2
    assert await passed(gateway, "203.0.113.8") == 2
    assert await passed(gateway, "203.0.113.7", calls=1) == 0


async def test_a_new_owner_begins_with_full_buckets_and_what_nobody_waits_for_needs_none(mayfly: Platform) -> None:
    """A limit is the owner's memory: when the function is another router's, and the former one has let go, it starts
    anew. A call without a reply is never refused."""
    worker = await mayfly.worker()
    await mayfly.deploy(OF_R2, rate_limit=0.01)
    assert "echo" in await mayfly.call(f"fn.{OF_R2}")
    assert (await mayfly.call(f"fn.{OF_R2}")).kind is ErrorType.THROTTLED
    for _ in range(5):
        mayfly.caller.publish(f"fn.{OF_R2}", b"nobody waits")
    await mayfly.router("r2")
    async with asyncio.timeout(10):
        while isinstance(await mayfly.call(f"fn.{OF_R2}"), CallError):
            await asyncio.sleep(0.02)
    assert (await mayfly.state("r2"))["functions"][OF_R2]["calls"] >= 1
    assert (await mayfly.call(f"fn.{OF_R2}")).kind is ErrorType.THROTTLED
    assert worker.runs[b"nobody waits"] == 5
