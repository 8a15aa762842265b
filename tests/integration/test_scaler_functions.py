"""What a scaler makes of reports: targets in KV, shares of a full cluster, and what it keeps of what it knows."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic

import msgspec
import pytest

from mayfly_broker.server import EmbeddedServer
from mayfly_chassis import jetstream
from mayfly_chassis.kv import Bucket
from mayfly_proto import messages, records, storage, subjects
from mayfly_proto.records import FunctionLoad, FunctionTarget, Learned, Provisioned, ScaleOn, VersionLoad
from mayfly_scaler import reports
from mayfly_scaler.functions import function, minimum
from tests.conftest import Eventually
from tests.integration.scaler_driver import World, world

COLD = 250.0  # ms
MINUTES = {"57": 10}  # ten pauses of about a minute


@pytest.fixture
async def mayfly(server: EmbeddedServer, tmp_path: Path) -> AsyncIterator[World]:
    async with world(server, tmp_path) as mayfly:
        yield mayfly


def has_windows(target: FunctionTarget) -> bool:
    return target.keep_alive_s is not None


async def test_windows_are_learnt_from_pauses(mayfly: World, eventually: Eventually) -> None:
    """A function that is called each minute is kept that long from its tenth pause on; people can read why."""
    await mayfly.deploy()
    await mayfly.deploy("fixed", keep_alive_s=90.0)
    large = {"1": VersionLoad(ready=2, private_mb=128.0)}
    await mayfly.node("n1", instances={"hello": large, "fixed": large})
    await mayfly.scaler()
    await mayfly.led_by("s1")
    mayfly.say(calls=10, cold_ms=COLD, idle_gaps=MINUTES, further_gaps={"5": 10})
    mayfly.say("fixed", calls=10, cold_ms=COLD, idle_gaps=MINUTES)
    target = await mayfly.until(lambda target: target.keep_alive_s == 62)
    assert target.further_keep_alive_s is not None
    assert target.further_keep_alive_s < 62
    await eventually(lambda: "62 s" in mayfly.decisions[-1].why, timeout_s=15)
    said = mayfly.decisions[-1]
    assert (said.about, said.action) == ("function hello", "keep_alive")
    assert (said.seen["pauses"], said.seen["cold_ms"], said.seen["memory_mb"]) == (10, COLD, 128)
    assert await mayfly.target("fixed") == FunctionTarget()


async def test_what_was_learnt_outlives_the_scaler(mayfly: World) -> None:
    """Stopped, it leaves what it knows; the next one goes on with it and has nothing to write anew, unless that was
    lost."""
    await mayfly.deploy()
    first = await mayfly.scaler()
    await mayfly.led_by("s1")
    mayfly.say(calls=10, cold_ms=COLD, idle_gaps=MINUTES)
    await mayfly.until(has_windows)
    revision = await mayfly.revision()
    await first.stop()
    entry = await Bucket(mayfly.operator, storage.LEARNED).get("hello")
    assert entry is not None
    learned = records.decode(entry.value, Learned)
    assert (learned.idle, learned.idle_count, learned.cold_s) == ({"57": pytest.approx(10, rel=0.05)}, 10, 0.25)
    second = await mayfly.scaler("s2")
    await mayfly.led_by("s2")
    await asyncio.sleep(2)  # of its looks, in which it finds nothing to write
    assert await mayfly.revision() == revision
    await second.stop()
    await Bucket(mayfly.operator, storage.TARGETS).delete(storage.function_target_key("hello"))
    await mayfly.scaler("s3")
    await mayfly.until(has_windows)
    mayfly.say(calls=20, cold_ms=COLD, idle_gaps={"2400": 300})
    await mayfly.until(lambda target: target.why == "310 pauses seen")


@pytest.mark.invariant("I32")
async def test_wishes_stay_when_every_scaler_is_dead(mayfly: World) -> None:
    """Killed with -9, five minutes or five days: what it wanted stands in KV without an end, and who comes next begins
    with that, and takes none of it back."""
    await mayfly.deploy(scale_on=[ScaleOn(metric="jobs", target=1)])
    first = await mayfly.scaler_process()
    await mayfly.led_by("s1")
    mayfly.say(calls=10, cold_ms=COLD, idle_gaps=MINUTES)
    await mayfly.until(has_windows)
    mayfly.operator.publish(subjects.metric("jobs"), b"4")
    target = await mayfly.until(lambda target: target.minimum == 4)
    first.kill()
    await first.wait()
    key = subjects.kv(storage.TARGETS, storage.function_target_key("hello"))
    stored = await jetstream.last(mayfly.operator, subjects.kv_stream(storage.TARGETS), key)
    assert stored is not None
    assert b"Nats-TTL" not in stored.headers
    info = await jetstream.api(mayfly.operator, subjects.stream_info(subjects.kv_stream(storage.TARGETS)))
    assert info["config"]["max_age"] == 0
    await mayfly.scaler("s2")
    await mayfly.led_by("s2")
    mayfly.say(calls=11, cold_ms=COLD, idle_gaps={"57": 1})  # one pause is no habit, and no reason to forget one
    await mayfly.deploy("other", scale_on=[ScaleOn(metric="jobs", target=1)])
    mayfly.operator.publish(subjects.metric("jobs"), b"0")
    await asyncio.sleep(3)  # of its ticks, in which it would write
    after = await mayfly.target()
    assert (after.minimum, after.keep_alive_s) == (target.minimum, target.keep_alive_s)


async def test_a_function_scales_on_what_anybody_publishes(mayfly: World, eventually: Eventually) -> None:
    """The number over the target, in instances; what is no number, or another's, changes nothing."""
    await mayfly.deploy(scale_on=[ScaleOn(metric="jobs.waiting", target=10)], max_instances=20)
    await mayfly.scaler()
    await mayfly.led_by("s1")
    client = await mayfly.connect("client")
    await mayfly.until(lambda _: len(mayfly.decisions) == 1)
    deadline = monotonic() + 10
    while (await mayfly.target()).minimum != 12:
        assert monotonic() < deadline
        client.publish(subjects.metric("jobs.waiting"), b"120")
        client.publish(subjects.metric("jobs.waiting"), b"many")
        client.publish(subjects.metric("jobs"), b"900")
        await asyncio.sleep(0.2)
    target = await mayfly.target()
    assert target.why == "jobs.waiting asks for 12"
    client.publish(subjects.metric("jobs.waiting"), b"1e9")
    assert (await mayfly.until(lambda target: target.minimum > 12)).minimum == 20
    await eventually(lambda: mayfly.decisions[-1].count == 20, timeout_s=15)
    assert mayfly.decisions[-1].action == "minimum"


async def test_instances_are_provisioned_by_the_clock(mayfly: World) -> None:
    """A window that is open now counts, one that opens in an hour does not yet, one of a zone that this machine does
    not know never, and all else goes on."""
    now = datetime.now(UTC)

    def cron(moment: datetime) -> str:
        return f"{moment.minute} {moment.hour} {moment.day} {moment.month} *"

    opened = Provisioned(start=cron(now - timedelta(hours=1)), end=cron(now + timedelta(hours=1)), instances=3)
    later = Provisioned(start=cron(now + timedelta(hours=1)), end=cron(now + timedelta(hours=2)), instances=9)
    await mayfly.deploy("abroad", provisioned=[msgspec.structs.replace(opened, timezone="Mars/Base")])
    await mayfly.scaler()
    await mayfly.deploy(provisioned=[opened, later])
    assert (await mayfly.until(lambda target: target.minimum > 0)).why == "3 provisioned at this time"


@pytest.mark.invariant("I33")
async def test_silence_takes_nothing_away(mayfly: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A floor stands while its router's reports do not get through, however long; it falls when they say so."""
    monkeypatch.setattr(function, "FLOOR_S", 1.0)  # for which it stands anyway
    monkeypatch.setattr(minimum, "AVERAGE_S", 1.0)
    monkeypatch.setattr(reports, "STALE_S", 1.0)
    await mayfly.deploy()
    mayfly.functions["hello"] = FunctionLoad(in_flight=9, ready=9, cold_ms=COLD)
    await mayfly.scaler()
    await mayfly.until(lambda target: target.minimum == 12)  # 9 and √9
    mayfly.reporting = False
    await asyncio.sleep(3)  # three times what makes a report stale
    assert (await mayfly.target()).minimum == 12
    mayfly.functions["hello"] = FunctionLoad(ready=12, cold_ms=COLD)
    mayfly.reporting = True
    await mayfly.until(lambda target: target.minimum < 12)


async def test_what_somebody_else_writes_is_put_right(mayfly: World) -> None:
    """An operator's hand in KV holds until the next look: what the leader wants is what is true."""
    await mayfly.deploy()
    await mayfly.scaler()
    await mayfly.led_by("s1")
    mayfly.say(calls=10, cold_ms=COLD, idle_gaps=MINUTES)
    mayfly.functions["hello"] = FunctionLoad(calls=10, cold_ms=COLD)
    wanted = await mayfly.until(has_windows)
    await asyncio.sleep(3)  # until there is no other reason to look at it
    meddled = records.encode(FunctionTarget(minimum=77))
    await Bucket(mayfly.operator, storage.TARGETS).put(storage.function_target_key("hello"), meddled)
    assert await mayfly.until(has_windows) == wanted


async def test_a_deleted_function_is_forgotten(mayfly: World) -> None:
    """Its target and what was learnt of it, even if it was deleted while no scaler ran."""
    await mayfly.deploy()
    first = await mayfly.scaler()
    await mayfly.led_by("s1")
    mayfly.say(calls=10, cold_ms=COLD, idle_gaps=MINUTES)
    await mayfly.until(has_windows)
    await first.stop()
    await mayfly.delete("hello")
    await mayfly.scaler("s2")
    learned = Bucket(mayfly.operator, storage.LEARNED)
    assert await learned.get("hello") is not None
    async with asyncio.timeout(20):
        while await learned.get("hello") is not None or await mayfly.revision():
            await asyncio.sleep(0.05)


# shares


async def cluster(mayfly: World, nodes: int = 1) -> None:
    """1000 MB a node, and functions of 100 MB: nine instances a node."""
    for number in range(nodes):
        await mayfly.node(f"n{number + 1}", 1000, memory_used_mb=900)
    for name in ("greedy", "small", "sure"):
        await mayfly.deploy(name, memory_mb=100, reserved=3 if name == "sure" else 0)


async def test_a_full_cluster_is_shared_out(
    mayfly: World, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who wants more than there is gets what the others leave; they are not named, and may go on ordering. When it is
    full no longer, nothing is said."""
    monkeypatch.setattr(function, "DEMAND_S", 1.0)
    await cluster(mayfly)
    mayfly.functions["greedy"] = FunctionLoad(in_flight=7, queued=40, ready=7)
    mayfly.functions["small"] = FunctionLoad(in_flight=2, ready=2)
    await mayfly.scaler()
    await eventually(lambda: mayfly.shares and mayfly.shares[-1].shares == {"greedy": 7}, timeout_s=10)
    mayfly.functions["sure"] = FunctionLoad(queued=9)
    await eventually(lambda: mayfly.shares[-1].shares == {"greedy": 2, "sure": 5}, timeout_s=10)
    mayfly.functions = {"small": FunctionLoad(in_flight=2, ready=2)}
    await asyncio.sleep(3)  # until the peak of the last second has passed
    said = len(mayfly.shares)
    await asyncio.sleep(2)
    assert len(mayfly.shares) == said


async def test_an_order_without_a_place_is_heard_at_once(mayfly: World, eventually: Eventually) -> None:
    """`Blocked` is answered by new shares in a fraction of a second, however many come; reasons that pass by
    themselves are none."""
    await cluster(mayfly)
    mayfly.functions["greedy"] = FunctionLoad(in_flight=9, ready=9)
    mayfly.functions["small"] = FunctionLoad()
    await mayfly.scaler()
    await mayfly.led_by("s1")
    await asyncio.sleep(2.5)  # two looks at a cluster that is not too small
    mayfly.block("small", 2, messages.Refusal.SLOTS)
    await asyncio.sleep(1.5)
    assert not mayfly.shares
    began = monotonic()
    mayfly.block("small", 2)
    await eventually(lambda: mayfly.shares)
    assert monotonic() - began < 0.5
    assert mayfly.shares[0].shares == {"greedy": 7}
    for _ in range(100):
        mayfly.block("small", 2)
        await asyncio.sleep(0.005)  # a router that goes on asking
    assert len(mayfly.shares) <= 2 + (monotonic() - began) / 0.05 + 1


async def test_nodes_that_can_come_are_waited_for(mayfly: World, eventually: Eventually) -> None:
    """Where another node may be added, what there is is shared out only when it does not come in seconds."""
    await cluster(mayfly)
    mayfly.functions["greedy"] = FunctionLoad(in_flight=9, queued=40, ready=9)
    await mayfly.scaler(provider="docker", max_nodes=2, docker_socket="/nonexistent/docker.sock")
    await mayfly.led_by("s1")
    began = monotonic()
    await eventually(lambda: mayfly.shares, timeout_s=20)
    assert monotonic() - began > 4
    assert mayfly.shares[-1].shares == {"greedy": 9}
