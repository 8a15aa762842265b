"""A cluster in which one function wants five times what there is: the others hardly notice."""

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest

from mayfly_proto import codec, messages, records, subjects
from mayfly_proto.errors import ErrorType
from mayfly_proto.messages import Refusal
from mayfly_proto.records import Shares
from mayfly_router.allotment import LINGER_S
from mayfly_scaler.functions import sharing
from mayfly_scaler.functions.function import DEMAND_S
from tests.unit.router_cluster import Cluster, Outcome, Scaler, simulated

MB = 128
COLD_S = 0.05
WORD_S = 0.06  # until all know that an order was blocked: the scaler says shares every 50 ms at most
MESSAGES_S = 0.02  # a stop, the process's end, a report that there is room, an order


async def keep_busy(cluster: Cluster, function: str, callers: int, service_s: Any) -> None:
    """So many callers who call again as soon as they have their answer, or when they are told to come back."""

    async def caller() -> None:
        while True:
            outcome = await cluster.call(function, service_s())
            if outcome.error is not None:
                assert outcome.error.kind is ErrorType.THROTTLED
                await asyncio.sleep(outcome.error.retry_after_s or 0)

    for _ in range(callers):
        cluster.background("caller", caller())


async def call_now_and_then(cluster: Cluster, function: str, per_s: float, service_s: Any, chance: Any) -> None:
    while True:
        await asyncio.sleep(chance.expovariate(per_s))
        cluster.background("call", _one(cluster, function, service_s()))


async def _one(cluster: Cluster, function: str, service_s: float) -> None:
    await cluster.call(function, service_s)


async def full(*, shares: bool = True, seconds: float = 30.0) -> Cluster:
    """100 instances; "noisy" with 500 callers, and thirty functions that are called now and then."""
    chance = random.Random(7)
    cluster = Cluster(4, 25 * MB, COLD_S)
    await cluster.start()
    if shares:
        Scaler(cluster)
    cluster.deploy("noisy", memory_mb=MB, max_instances=500, timeout_s=60)
    await keep_busy(cluster, "noisy", 500, lambda: chance.lognormvariate(-1.0, 1.2))
    await asyncio.sleep(10)
    for n in range(30):
        cluster.deploy(f"small-{n}", memory_mb=MB, timeout_s=60)
        small = call_now_and_then(cluster, f"small-{n}", 0.5, lambda: chance.uniform(0.02, 0.2), chance)
        cluster.background("small", small)
    await asyncio.sleep(seconds)
    cluster.stop()
    return cluster


def of(cluster: Cluster, prefix: str) -> list[Outcome]:
    return [outcome for outcome in cluster.outcomes if outcome.function.startswith(prefix)]


@pytest.mark.invariant("S29", "S30")
def test_thirty_small_functions_beside_one_that_wants_five_times_the_cluster() -> None:
    """Nobody small is refused, half of their calls do not wait at all, and the 99th percentile waits less than ten cold
    starts, though the calls of the noisy one take half a second and some of them ten. It has what the others leave,
    all its calls end well or are told when to come back, and its instances are not stopped and started all the time."""
    cluster = simulated(full())
    small, noisy = of(cluster, "small"), of(cluster, "noisy")
    waits = sorted(outcome.wait_s for outcome in small)
    assert len(small) > 300
    assert all(outcome.error is None for outcome in small)
    assert waits[len(waits) // 2] < 0.001
    assert waits[len(waits) * 99 // 100] < 10 * COLD_S
    served = [outcome for outcome in noisy if outcome.error is None]
    assert len(served) > 50 * 40 / 0.76, "50 of its instances are busy for the 40 s that this takes"
    assert all(outcome.error.kind is ErrorType.THROTTLED for outcome in noisy if outcome.error)
    assert cluster.stops["noisy"] < 120
    assert cluster.refused == 0, "no call was sent to an instance that had gone"


def test_without_shares_the_small_ones_get_nothing() -> None:
    """The same without the scaler's word: most small calls find no place. The test before this one can fail."""
    cluster = simulated(full(shares=False, seconds=10))
    small = of(cluster, "small")
    refused = [outcome for outcome in small if outcome.error and outcome.error.kind is ErrorType.NO_CAPACITY]
    assert len(refused) > len(small) / 2


async def coming_down(callers: int) -> tuple[Cluster, dict[str, float]]:
    """A function with four instances on their way has a share of two from now on; when it was told to stop some, and
    when they had ended a call before."""
    cluster = Cluster(1, 8 * MB, COLD_S)
    await cluster.start()
    cluster.deploy("f", memory_mb=MB, activation="eager", timeout_s=60)
    for n in range(callers):
        cluster.background("call", _one(cluster, "f", 1.0 + 0.1 * n))
    await asyncio.sleep(COLD_S / 2)
    cluster.net.publish(subjects.SHARES, records.encode(Shares(epoch=1, shares={"f": 2})))
    await asyncio.sleep(COLD_S)
    seen = {"stopped while they came": float(cluster.stops["f"])}
    await asyncio.sleep(0.5)
    cluster.net.publish(subjects.SHARES, records.encode(Shares(epoch=1, shares={"f": 1})))
    async with asyncio.timeout(2):
        while cluster.stops["f"] == seen["stopped while they came"]:
            await asyncio.sleep(0.001)
    seen["late by"] = asyncio.get_running_loop().time() - cluster.ended["f"][0]
    cluster.stop()
    return cluster, seen


def test_an_instance_that_came_too_late_is_stopped_before_it_has_a_call() -> None:
    """Four were on their way when the share became two: two take a call each, two are stopped as they come."""
    cluster, seen = simulated(coming_down(callers=4))
    assert seen["stopped while they came"] == 2
    assert cluster.refused == 0


def test_one_that_is_free_goes_although_nobody_waits() -> None:
    """The share is one, two calls run, and nobody waits: the first instance that is free is stopped in that moment."""
    _, seen = simulated(coming_down(callers=2))
    assert seen["stopped while they came"] == 0
    assert seen["late by"] < 0.005


async def held_at_its_share() -> list[messages.Blocked]:
    """What is said in three seconds of a function whose share is one, for whom five calls wait."""
    cluster = Cluster(1, 8 * MB, COLD_S)
    await cluster.start()
    said: list[messages.Blocked] = []
    unpack = codec.Unpacker(messages.Blocked)
    cluster.net.receive(subjects.BLOCKED, lambda _s, _r, _raw, frame: said.append(unpack(frame)[0]))
    cluster.deploy("f", memory_mb=MB, activation="eager", timeout_s=60)
    for _ in range(6):
        cluster.background("call", _one(cluster, "f", 10.0))
    for _ in range(30):
        cluster.net.publish(subjects.SHARES, records.encode(Shares(epoch=1, shares={"f": 1})))
        await asyncio.sleep(0.1)
    cluster.stop()
    return said


def test_a_function_held_at_its_share_says_once_a_second_what_it_lacks() -> None:
    """A scaler whose figures are a second old learns so of those who want more now, and hears it no more than that."""
    said = simulated(held_at_its_share())
    assert {(blocked.function, blocked.reason) for blocked in said} == {("f", Refusal.SHARE)}
    assert {blocked.instances for blocked in said[1:]} == {5}
    assert 3 <= len(said) <= 4


@pytest.fixture
def nothing_is_left_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scaler shares out nine tenths: what comes newly finds a place in the last one, and waits for nobody."""
    monkeypatch.setattr(sharing, "FULL", 1.0)


async def rare_calls(service_s: Callable[[random.Random], float], concurrency: int) -> tuple[Cluster, list[float]]:
    """A function that is called when its place has long gone to the noisy one; returns for how long its calls waited
    after the first call of the noisy one had ended of which all could know that it was one too many."""
    chance = random.Random(11)
    cluster = Cluster(2, 8 * MB, COLD_S)
    await cluster.start()
    Scaler(cluster)
    spec: dict[str, Any] = {"memory_mb": MB, "max_instances": 80, "timeout_s": 60, "concurrency": concurrency}
    cluster.deploy("noisy", **spec)
    cluster.deploy("rare", memory_mb=MB, timeout_s=60)
    await keep_busy(cluster, "noisy", 80 * concurrency, lambda: service_s(chance))
    await asyncio.sleep(5)
    beyond = []
    for _ in range(5):
        outcome = await cluster.call("rare", 0.01)
        assert outcome.error is None and outcome.began is not None
        await asyncio.sleep(DEMAND_S + LINGER_S + chance.uniform(1.5, 3))
        released = min(at for at in cluster.ended["noisy"] if at > outcome.arrived + WORD_S)
        beyond.append(outcome.began - released)
    cluster.stop()
    return cluster, beyond


@pytest.mark.invariant("S30")
@pytest.mark.usefixtures("nothing_is_left_free")
@pytest.mark.parametrize("noisy_s", [0.05, 0.5, 3.0])
def test_within_its_share_a_call_waits_for_one_slot_and_one_cold_start(noisy_s: float) -> None:
    """Every place is taken, by calls that are short or long. A call of a function that is within its share begins a
    cold start after the first of the noisy one's calls ends, wherever that is, and a few messages."""
    cluster, beyond = simulated(rare_calls(lambda chance: chance.expovariate(1 / noisy_s), concurrency=1))
    assert cluster.starts["rare"] == 5, "its place went to the noisy one in between"
    assert max(beyond) <= COLD_S + MESSAGES_S


@pytest.mark.invariant("S30")
@pytest.mark.usefixtures("nothing_is_left_free")
def test_a_noisy_function_of_many_calls_at_once_makes_room_too() -> None:
    """Where an instance takes five calls at once its place is there when the last of them has ended, and it gets none
    after them: within the longest of a handful of calls."""
    cluster, beyond = simulated(rare_calls(lambda chance: chance.uniform(0.2, 0.4), concurrency=5))
    assert cluster.starts["rare"] == 5
    assert max(beyond) <= COLD_S + MESSAGES_S + 0.4
