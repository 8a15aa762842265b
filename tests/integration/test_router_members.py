"""Two routers: who owns what, and what happens when one comes, goes, dies or sleeps."""

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from time import monotonic

import pytest

from mayfly_broker.server import EmbeddedServer
from mayfly_chassis.bus import Reply
from mayfly_chassis.kv import Bucket
from mayfly_proto import codec, headers, ownership, records, storage, subjects
from mayfly_proto.errors import CallError, ErrorType
from mayfly_proto.messages import Adopt, Handover, Refusal
from mayfly_proto.records import Client, RouterMembers
from mayfly_router.membership import Membership
from tests.conftest import Connect
from tests.integration.router_peers import Platform, ScriptedWorker, outcome, platform
from tests.pausing import paused

BOTH = ["r1", "r2"]
OF_R1, OF_R2 = (next(f"f{k}" for k in range(99) if ownership.owner(f"f{k}", BOTH) == owner) for owner in BOTH)


@pytest.fixture
async def mayfly(server: EmbeddedServer, tmp_path: Path) -> AsyncIterator[Platform]:
    async with platform(server, tmp_path) as mayfly:
        yield mayfly


async def agree(mayfly: Platform, *members: str) -> None:
    """Wait until these routers see these members, and every node has accepted them."""
    for name in members:
        await mayfly.until(
            lambda state: state["members"] == sorted(members) and all(n["usable"] for n in state["nodes"].values()),
            name,
        )


async def test_functions_are_shared_out_and_every_call_finds_its_owner(mayfly: Platform) -> None:
    """A second router takes its share over; calls to both functions go on meanwhile, none is missed."""
    await mayfly.activator()
    worker = await mayfly.worker()
    await mayfly.router("r1")
    for name in (OF_R1, OF_R2):
        await mayfly.deploy(name)
        await mayfly.call(f"fn.{name}")
    stop = asyncio.Event()

    async def keep_calling(name: str) -> list[object]:
        answers = []
        while not stop.is_set():
            answers.append(await mayfly.call(f"fn.{name}"))
        return answers

    callers = [asyncio.create_task(keep_calling(name)) for name in (OF_R1, OF_R2)]
    await mayfly.router("r2")
    await agree(mayfly, "r1", "r2")
    await mayfly.until(lambda state: OF_R2 in state["functions"] and OF_R1 not in state["functions"], "r2")
    stop.set()
    for answers in await asyncio.gather(*callers):
        assert answers
        assert not any(isinstance(answer, CallError) for answer in answers)
    assert set(worker.refusals) <= {"busy"}


async def test_a_router_that_is_told_to_stop_hands_its_queue_over(mayfly: Platform) -> None:
    """SIGTERM: calls that wait there, and calls that run, are answered by results through the other router."""
    await mayfly.activator()
    worker = await mayfly.worker()
    leaver = await mayfly.router_process("r2")
    await mayfly.router("r1")
    await agree(mayfly, "r1", "r2")
    await mayfly.deploy(OF_R2, max_instances=1)
    worker.held = asyncio.Event()
    calls = [asyncio.create_task(mayfly.call(f"fn.{OF_R2}", b"%d" % k)) for k in range(20)]
    await mayfly.until(lambda state: state["functions"][OF_R2]["queued"] == 19, "r2")
    leaver.send_signal(signal.SIGTERM)
    assert await leaver.wait() == 0
    await mayfly.until(lambda state: state["functions"][OF_R2]["queued"] == 19, "r1")
    worker.held.set()
    answers = await asyncio.gather(*calls)
    assert sorted(int(answer["echo"]) for answer in answers) == list(range(20))
    assert set(worker.runs.values()) == {1}
    assert worker.most == 1


async def test_a_router_that_is_told_to_stop_while_it_joins_keeps_no_call(mayfly: Platform, connect: Connect) -> None:
    """SIGTERM when it is a member and long before it is ready: calls that were handed to it come back, and run."""
    await mayfly.activator()
    worker = await mayfly.worker()
    await mayfly.router("r1")
    await asyncio.gather(*(mayfly.deploy(f"g{number}") for number in range(300)))
    await mayfly.deploy(OF_R2, max_instances=1)
    worker.held = asyncio.Event()
    calls = [asyncio.create_task(mayfly.call(f"fn.{OF_R2}", b"%d" % k)) for k in range(20)]
    await mayfly.until(lambda state: state["functions"][OF_R2]["queued"] == 19, "r1")
    bus = await connect("router")
    joined = asyncio.Event()

    def changed(_subject: bytes, _reply: bytes, _raw: bytes | None, value: bytes) -> None:
        if "r2" in records.decode(value, RouterMembers).members:
            joined.set()

    await bus.subscribe(subjects.kv_feed(storage.ROUTERS) + storage.ROUTER_MEMBERS_KEY, changed)
    leaver = await mayfly.start_router("r2")
    await joined.wait()
    leaver.send_signal(signal.SIGTERM)
    assert await leaver.wait() == 0
    await mayfly.until(lambda state: state["functions"].get(OF_R2, {}).get("queued") == 19, "r1")
    worker.held.set()
    answers = await asyncio.gather(*calls)
    assert sorted(int(answer["echo"]) for answer in answers) == list(range(20))
    assert set(worker.runs.values()) == {1}


async def test_a_router_that_leaves_passes_on_what_a_node_refuses_late(mayfly: Platform) -> None:
    """A node that is behind with reading refuses a call when its router has handed all else over: that one has waited
    for it, and the call runs by the new owner's order."""
    await mayfly.activator()
    worker = await mayfly.worker()
    leaver = await mayfly.router_process("r2")
    await mayfly.router("r1")
    await agree(mayfly, "r1", "r2")
    await mayfly.deploy(OF_R2)
    await mayfly.call(f"fn.{OF_R2}", b"warm")
    unread = worker.unread = []
    call = asyncio.create_task(mayfly.call(f"fn.{OF_R2}", b"late"))
    await mayfly.until(lambda state: state["functions"][OF_R2]["in_flight"] == 1, "r2")
    leaver.send_signal(signal.SIGTERM)
    async with asyncio.timeout(10):
        while leaver.returncode is None and not any(isinstance(m, Adopt) and m.router == "r2" for m, _ in unread):
            await asyncio.sleep(0.01)
    await worker.reclaim(OF_R2, 1)
    worker.read_on()
    assert (await call)["echo"] == "late"
    assert worker.refusals == {Refusal.BUSY: 1}
    assert await leaver.wait() == 0


async def test_the_last_router_waits_for_those_that_leave_before_it(mayfly: Platform, connect: Connect) -> None:
    """Two are told to stop at once: a call that the first one hands over when there is no member left gets an error."""
    router = await mayfly.router_process("r1")
    await mayfly.deploy("f")
    bus = await connect("router")
    bucket = Bucket(bus, storage.ROUTERS)
    epoch, asked = 0, asyncio.Event()

    def on_ping(_subject: bytes, reply: bytes, _raw: bytes | None, _payload: bytes) -> None:
        asked.set()
        bus.publish(reply, b"%d" % epoch)

    await bus.subscribe(subjects.router_ping("r9"), on_ping)

    async def follow(*members: str) -> None:
        nonlocal epoch
        entry = await bucket.get(storage.ROUTER_MEMBERS_KEY)
        assert entry is not None
        known = records.decode(entry.value, RouterMembers)
        epoch = known.epoch + 1
        clients = {name: known.members.get(name, bus.identity) for name in members}
        await bucket.put(storage.ROUTER_MEMBERS_KEY, records.encode(RouterMembers(epoch=epoch, members=clients)))
        await mayfly.until(lambda state: state["epoch"] == epoch)

    await bucket.put("r9", records.encode(bus.identity), ttl_s=60)
    await follow("r1", "r9")
    await follow("r1")
    asked.clear()
    router.send_signal(signal.SIGTERM)
    async with asyncio.timeout(10):
        while router.returncode is None and not asked.is_set():
            await asyncio.sleep(0.01)
    answers: asyncio.Queue[Reply] = asyncio.Queue()
    inbox = mayfly.caller.new_inbox()
    await mayfly.caller.subscribe(inbox, lambda _s, _r, raw, body: answers.put_nowait(Reply(raw, body)))
    await mayfly.caller.flush()
    handover = Handover("f", 0, "i1", inbox, 10_000, epoch=epoch)
    bus.publish(subjects.router_handover("r1"), codec.pack(handover, b"x"))
    epoch += 1
    async with asyncio.timeout(5):
        assert outcome(await answers.get()).kind is ErrorType.UNAVAILABLE
    assert await router.wait() == 0


async def test_a_router_that_is_killed_is_replaced_within_a_second(mayfly: Platform) -> None:
    """kill -9: the running call is answered by its worker, the slot is known to the new owner, the limit holds."""
    await mayfly.activator()
    worker = await mayfly.worker()
    victim = await mayfly.router_process("r2")
    await mayfly.router("r1")
    await agree(mayfly, "r1", "r2")
    await mayfly.deploy(OF_R2, max_instances=1)
    await mayfly.call(f"fn.{OF_R2}")
    worker.held = asyncio.Event()
    running = asyncio.create_task(mayfly.call(f"fn.{OF_R2}", b"running"))
    await mayfly.until(lambda state: state["functions"][OF_R2]["in_flight"] == 1, "r2")
    began = monotonic()
    victim.kill()
    await mayfly.callable(OF_R2, 1)
    assert monotonic() - began < 1
    await mayfly.until(lambda state: state["functions"][OF_R2]["in_flight"] == 1, "r1")
    waiting = asyncio.create_task(mayfly.call(f"fn.{OF_R2}", b"waiting"))
    await mayfly.until(lambda state: state["functions"][OF_R2]["queued"] == 1, "r1")
    worker.held.set()
    assert [(await call)["echo"] for call in (running, waiting)] == ["running", "waiting"]
    await mayfly.until(lambda state: state["functions"][OF_R2]["in_flight"] == 0, "r1")
    assert worker.most == 1


@pytest.mark.invariant("I9")
async def test_a_router_that_slept_is_refused_and_passes_its_calls_on(mayfly: Platform) -> None:
    """SIGSTOP for longer than its lease: the other takes over; on waking, what it sends by the old epoch is refused
    and runs, once, through the new owner."""
    await mayfly.activator()
    worker = await mayfly.worker()
    sleeper = await mayfly.router_process("r2")
    await mayfly.router("r1")
    await agree(mayfly, "r1", "r2")
    await mayfly.deploy(OF_R2, max_instances=1, timeout_s=30)
    await mayfly.call(f"fn.{OF_R2}", b"warm")
    with paused(sleeper.pid):
        calls = [asyncio.create_task(mayfly.call(f"fn.{OF_R2}", b"%d" % k, timeout_s=40)) for k in range(20)]
        await mayfly.until(lambda state: state["members"] == ["r1"], "r1", timeout_s=20)
    answers = await asyncio.gather(*calls)
    assert sorted(int(answer["echo"]) for answer in answers) == list(range(20))
    assert set(worker.runs.values()) == {1}
    assert worker.most == 1
    await agree(mayfly, "r1", "r2")


@pytest.mark.invariant("I9")
async def test_an_owner_that_sleeps_and_its_successor_start_no_more_than_the_limit(mayfly: Platform) -> None:
    """It falls asleep with starts under way and calls that wait, and wakes when the other orders for those it has: the
    instances that exist at one time, by anybody's order, are never more than the limit."""
    await mayfly.activator()
    workers = [await mayfly.worker(name, cold_s=2) for name in ("n1", "n2")]
    sleeper = await mayfly.router_process("r2")
    await mayfly.router("r1")
    await agree(mayfly, "r1", "r2")
    await mayfly.deploy(OF_R2, max_instances=3, timeout_s=30)
    for worker in workers:
        worker.held = asyncio.Event()
    calls = [asyncio.create_task(mayfly.call(f"fn.{OF_R2}", b"%d" % k, timeout_s=60)) for k in range(10)]
    await mayfly.until(lambda state: state["functions"][OF_R2]["starting"] == 3, "r2")
    existing: list[int] = []
    with paused(sleeper.pid):
        watch = asyncio.create_task(_watch(workers, existing))
        await mayfly.until(lambda state: state["members"] == ["r1"], "r1", timeout_s=20)
        calls += [asyncio.create_task(mayfly.call(f"fn.{OF_R2}", b"%d" % k, timeout_s=60)) for k in range(10, 20)]
        await mayfly.until(lambda state: state["functions"][OF_R2]["in_flight"] == 3, "r1")
        for worker in workers:
            assert worker.held is not None
            worker.held.set()
            worker.service_s = 0.05
    answers = await asyncio.gather(*calls)
    watch.cancel()
    assert sorted(int(answer["echo"]) for answer in answers) == list(range(20))
    assert max(existing) == 3


async def _watch(workers: list[ScriptedWorker], existing: list[int]) -> None:
    while True:
        existing.append(sum(len(worker.slots) for worker in workers))
        await asyncio.sleep(0.002)


async def test_a_restarted_router_finds_its_calls_again(mayfly: Platform) -> None:
    """Killed and started under the same name, alone: calls in flight keep their slot until they are done."""
    await mayfly.activator()
    worker = await mayfly.worker()
    victim = await mayfly.router_process("r1")
    await mayfly.deploy("f", max_instances=1)
    await mayfly.call("fn.f")
    worker.held = asyncio.Event()
    running = asyncio.create_task(mayfly.call("fn.f", b"running"))
    await mayfly.until(lambda state: state["functions"]["f"]["in_flight"] == 1)
    victim.kill()
    await victim.wait()
    await mayfly.router("r1")
    await mayfly.until(lambda state: state["functions"].get("f", {}).get("in_flight") == 1)
    waiting = asyncio.create_task(mayfly.call("fn.f", b"waiting", **{headers.TIMEOUT_MS: "10000"}))
    await mayfly.until(lambda state: state["functions"]["f"]["queued"] == 1)
    worker.held.set()
    assert [(await call)["echo"] for call in (running, waiting)] == ["running", "waiting"]
    assert worker.most == 1


async def test_hundreds_of_functions_change_hands_and_none_is_missed(mayfly: Platform) -> None:
    """One router comes, and is told to stop; another comes, and is killed. Every function answers all the time: those
    with instances and those without, at whichever router they are."""
    await mayfly.activator()
    await mayfly.worker(memory_mb=100_000)
    await mayfly.router("r1")
    names = [f"f{number}" for number in range(200)]
    await asyncio.gather(*(mayfly.deploy(name) for name in names))
    for name in names[:20]:
        await mayfly.call(f"fn.{name}")
    stop = asyncio.Event()

    async def keep_calling(share: int) -> list[object]:
        answers = []
        while not stop.is_set():
            for name in names[share::8]:
                answers.append(await mayfly.call(f"fn.{name}"))
        return answers

    callers = [asyncio.create_task(keep_calling(share)) for share in range(8)]
    leaver = await mayfly.router_process("r2")
    await agree(mayfly, "r1", "r2")
    leaver.send_signal(signal.SIGTERM)
    assert await leaver.wait() == 0
    victim = await mayfly.router_process("r2")
    await agree(mayfly, "r1", "r2")
    stop.set()
    for answers in await asyncio.gather(*callers):
        assert answers
        assert not [answer for answer in answers if isinstance(answer, CallError)]
    victim.kill()
    began = monotonic()
    await asyncio.gather(*(mayfly.callable(name, 1) for name in names))
    assert monotonic() - began < 3
    assert all(not isinstance(answer, CallError) for answer in [await mayfly.call(f"fn.{name}") for name in names])


async def test_many_that_write_the_members_at_once_all_get_in(connect: Connect) -> None:
    """Compare-and-set: nobody overwrites anybody, whoever wins each round, and every write raises the epoch."""
    names = [f"r{k}" for k in range(6)]
    buses = [await connect("router") for _ in names]
    memberships = [Membership(bus, name, lambda _: None) for bus, name in zip(buses, names, strict=True)]
    for name, bus in zip(names, buses, strict=True):
        await bus.subscribe(f"mayfly.router.{name}.ping", lambda _s, reply, _h, _p, bus=bus: bus.publish(reply, b"0"))
    await asyncio.gather(*(membership.join() for membership in memberships))
    entry = await Bucket(buses[0], storage.ROUTERS).get(storage.ROUTER_MEMBERS_KEY)
    assert entry is not None
    members = records.decode(entry.value, RouterMembers)
    assert set(members.members) == set(names)
    assert members.epoch == len(names)
    for membership in memberships:
        await membership.stop()


async def test_a_router_whose_joining_is_broken_off_is_no_member_once_it_has_left(connect: Connect) -> None:
    """Wherever it was: also when its own word that it is one had been sent and not been stored."""
    bus = await connect("router")
    bucket = Bucket(bus, storage.ROUTERS)
    for steps in range(0, 120, 2):
        membership = Membership(bus, "r1", lambda _: None)
        joining = asyncio.create_task(membership.join())
        for _ in range(steps):
            await asyncio.sleep(0)
        joining.cancel()
        await asyncio.wait({joining})
        await membership.leave()
        await membership.stop()
        await bus.flush()
        entry = await bucket.get(storage.ROUTER_MEMBERS_KEY)
        assert entry is None or not records.decode(entry.value, RouterMembers).members


async def test_a_joining_router_leaves_out_who_is_gone(mayfly: Platform, connect: Connect) -> None:
    """Members of a former life, of whom nobody listens any more, own nothing."""
    bus = await connect("router")
    dead = RouterMembers(epoch=41, members={"r9": Client(server="gone", id=1)})
    await Bucket(bus, storage.ROUTERS).put(storage.ROUTER_MEMBERS_KEY, records.encode(dead))
    await mayfly.router("r1")
    state = await mayfly.state()
    assert (state["members"], state["epoch"]) == (["r1"], 42)


async def test_the_last_router_answers_those_who_wait(mayfly: Platform) -> None:
    """Told to stop, alone: it takes no more calls, gives those that wait some time, and then an error."""
    router = await mayfly.router_process("r1")
    await mayfly.deploy("f")
    waiting = asyncio.create_task(mayfly.call("fn.f"))
    await mayfly.until(lambda state: state["functions"]["f"]["queued"] == 1)
    router.send_signal(signal.SIGTERM)
    error = await waiting
    assert error.kind is ErrorType.UNAVAILABLE
    assert await router.wait() == 0


async def test_a_router_stops_also_when_nats_is_gone(mayfly: Platform, server: EmbeddedServer) -> None:
    """SIGTERM ends the process within seconds, whoever does not answer any more."""
    router = await mayfly.router_process("r1")
    await mayfly.deploy("f")
    server.stop()
    router.send_signal(signal.SIGTERM)
    async with asyncio.timeout(15):
        await router.wait()
