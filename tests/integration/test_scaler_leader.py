"""Two scalers: one acts, and another takes over when it is gone, stops, or sleeps. Nothing is done twice."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mayfly_broker.server import EmbeddedServer
from mayfly_chassis.kv import Bucket
from mayfly_proto import records, storage
from mayfly_proto.records import FunctionLoad, FunctionTarget
from mayfly_scaler.functions.targets import Targets
from mayfly_scaler.leader import LEASE_S, Leader
from tests.conftest import Connect, Eventually
from tests.integration.scaler_driver import World, world
from tests.pausing import paused

TAKE_OVER_S = 6.5  # five of the lease, half of one to see it, one of the server's


@pytest.fixture
async def mayfly(server: EmbeddedServer, tmp_path: Path) -> AsyncIterator[World]:
    async with world(server, tmp_path) as mayfly:
        yield mayfly


async def full(mayfly: World) -> None:
    """A cluster that is full, so that the leader says something each second."""
    await mayfly.node("n1", 1000, memory_used_mb=900)
    await mayfly.deploy("greedy", memory_mb=100)
    mayfly.functions["greedy"] = FunctionLoad(in_flight=9, queued=50, ready=9)


async def test_the_standby_takes_over_from_one_that_is_killed(mayfly: World) -> None:
    """In seconds, by the end of the lease, and under a higher epoch."""
    first = await mayfly.scaler_process("s1")
    await mayfly.led_by("s1")
    lease = await mayfly.leader()
    await mayfly.scaler("s2")
    first.kill()
    assert await mayfly.led_by("s2") < TAKE_OVER_S
    after = await mayfly.leader()
    assert lease is not None
    assert after is not None
    assert after.epoch > lease.epoch
    assert [(decision.scaler, decision.action) for decision in mayfly.decisions] == [("s1", "lead"), ("s2", "lead")]


async def test_one_that_stops_gives_the_lease_up(mayfly: World) -> None:
    """A restart leaves nobody without a scaler for five seconds."""
    first = await mayfly.scaler("s1")
    await mayfly.led_by("s1")
    await mayfly.scaler("s2")
    await first.stop()
    assert await mayfly.led_by("s2") < 2.0


@pytest.mark.timeout(90)
async def test_one_that_was_paused_does_nothing_under_its_old_epoch(mayfly: World, eventually: Eventually) -> None:
    """A leader that sleeps past its lease and wakes up is a standby, from its first moment on; it may lead again."""
    await full(mayfly)
    first = await mayfly.scaler_process("s1")
    await mayfly.led_by("s1")
    await eventually(lambda: mayfly.shares, timeout_s=10)
    old = mayfly.shares[-1].epoch
    second = await mayfly.scaler("s2")
    with paused(first.pid):
        await mayfly.led_by("s2")
        await eventually(lambda: mayfly.shares[-1].epoch > old, timeout_s=10)
        said, decided = len(mayfly.shares), len(mayfly.decisions)
    await eventually(lambda: len(mayfly.shares) >= said + 4, timeout_s=10)  # four seconds of the other's
    assert {shares.epoch for shares in mayfly.shares[said:]} == {mayfly.shares[-1].epoch}
    assert {decision.scaler for decision in mayfly.decisions[decided:]} <= {"s2"}
    await second.stop()
    assert await mayfly.led_by("s1") < 3.0
    lease = await mayfly.leader()
    assert lease is not None
    assert lease.epoch > mayfly.shares[said].epoch


async def test_a_wish_that_is_out_of_date_is_not_stored(mayfly: World, connect: Connect) -> None:
    """Compare-and-set: what another has written since is not overwritten by one that does not know it."""
    targets = Targets(await connect("scaler"), lambda: True)
    await targets.start()
    assert await targets.write("hello", FunctionTarget(minimum=1))
    stale = dict(targets._revisions)
    assert await targets.write("hello", FunctionTarget(minimum=2))
    targets._revisions.update(stale)
    assert not await targets.write("hello", FunctionTarget(minimum=9))
    assert (await mayfly.target()).minimum == 2
    assert await targets.write("hello", FunctionTarget(minimum=3))  # it has read what stands there
    await Bucket(mayfly.operator, storage.TARGETS).put(storage.function_target_key("hello"), b"words")
    async with asyncio.timeout(5):
        while not await targets.write("hello", FunctionTarget(minimum=4)):
            await asyncio.sleep(0.01)
    assert (await mayfly.target()).minimum == 4
    await targets.stop()


async def test_the_lease_ends_for_its_holder_first(connect: Connect) -> None:
    """By its own clock, and before anybody else can take it; a lease that another holds is not touched."""
    now, led = [100.0], []
    holder = Leader(await connect("scaler"), "s1", lambda: led.append("s1"), lambda: now[0])
    other = Leader(await connect("scaler"), "s2", lambda: led.append("s2"))
    await holder.step()
    assert holder.leading
    await other.step()
    assert not other.leading
    now[0] += LEASE_S - 0.9
    assert not holder.leading
    await holder.step()
    assert holder.leading
    first = holder.epoch
    await holder.resign()
    assert not holder.leading
    await other.step()
    assert other.leading
    assert other.epoch > first
    await holder.resign()
    await holder.step()
    assert not holder.leading
    assert led == ["s1", "s2"]


async def test_a_lease_is_given_up_in_the_midst_of_its_renewal(connect: Connect) -> None:
    """The server may have written more than its holder knows; what another holds stays."""
    holder = Leader(await connect("scaler"), "s1", lambda: None)
    other = Leader(await connect("scaler"), "s2", lambda: None)
    await holder.step()
    bucket = Bucket(await connect("scaler"), storage.LEASES)
    entry = await bucket.get(storage.SCALER_LEASE_KEY)
    assert entry is not None
    await bucket.put(storage.SCALER_LEASE_KEY, entry.value)
    await holder.resign()
    assert await bucket.get(storage.SCALER_LEASE_KEY) is None
    await other.step()
    await holder.resign()
    assert other.leading
    assert await bucket.get(storage.SCALER_LEASE_KEY) is not None
    await bucket.put(storage.SCALER_LEASE_KEY, b"words")
    await other.step()
    assert not other.leading


async def test_a_lease_that_was_taken_away_is_noticed(connect: Connect) -> None:
    """As after a restore of NATS: who finds another's word, or none, in its place leads no longer; an own one whose
    acknowledgement was lost is its own."""
    bus = await connect("scaler")
    holder = Leader(bus, "s1", lambda: None)
    bucket = Bucket(bus, storage.LEASES)
    await holder.step()
    entry = await bucket.get(storage.SCALER_LEASE_KEY)
    assert entry is not None
    await bucket.put(storage.SCALER_LEASE_KEY, entry.value)  # as if by a write of ours
    await holder.step()
    assert holder.leading
    foreign = records.ScalerLease(scaler="s2", epoch=holder.epoch + 5, client=bus.identity)
    await bucket.put(storage.SCALER_LEASE_KEY, records.encode(foreign))
    await holder.step()
    assert not holder.leading
    await bucket.delete(storage.SCALER_LEASE_KEY)
    await holder.step()
    assert holder.leading


async def test_nobody_leads_without_nats(server: EmbeddedServer, connect: Connect, eventually: Eventually) -> None:
    """A leader that cannot renew stands down before its lease ends, and one leads again when NATS is back."""
    leader = Leader(await connect("scaler"), "s1", lambda: None)
    keeping = asyncio.create_task(leader.keep())
    await eventually(lambda: leader.leading)
    server.stop()
    await eventually(lambda: not leader.leading, timeout_s=LEASE_S)
    server.start()
    await eventually(lambda: leader.leading, timeout_s=20)
    keeping.cancel()
