"""What the scaler wants, seen to by routers on a real server, with nobody to answer as the scaler."""

import asyncio
from time import monotonic
from typing import Any

import pytest

from mayfly_chassis.bus import Bus
from mayfly_chassis.kv import Bucket
from mayfly_proto import codec, messages, records, storage, subjects
from mayfly_proto.errors import CallError
from mayfly_proto.records import FunctionLoad, FunctionTarget, RouterLoad
from tests.conftest import Eventually
from tests.integration.router_peers import Platform, ScriptedWorker
from tests.integration.test_router_members import OF_R2, agree

FIXED = 60.0


class Scaler:
    """Writes targets and reads loads; nothing else of it is there."""

    def __init__(self, bus: Bus) -> None:
        self._targets = Bucket(bus, storage.TARGETS)
        self.bus = bus
        self.loads: list[RouterLoad] = []

    async def listen(self) -> None:
        await self.bus.subscribe(
            subjects.LOAD_ROUTERS, lambda _s, _r, _h, raw: self.loads.append(records.decode(raw, RouterLoad))
        )

    async def want(self, function: str = "f", **fields: Any) -> None:
        target = FunctionTarget(**fields)
        await self._targets.put(storage.function_target_key(function), records.encode(target))

    async def want_nothing(self, function: str = "f") -> None:
        await self._targets.delete(storage.function_target_key(function))

    def of(self, function: str = "f") -> list[FunctionLoad]:
        return [load.functions[function] for load in self.loads if function in load.functions]


@pytest.fixture
async def scaler(mayfly: Platform) -> Scaler:
    made = Scaler(await mayfly.connect("scaler"))
    await made.listen()
    return made


async def running(mayfly: Platform, **fields: Any) -> ScriptedWorker:
    """A router, an activator, a worker that does as it is told, and ``f``."""
    await mayfly.router()
    await mayfly.activator()
    worker = await mayfly.worker()
    worker.obedient = True
    await mayfly.deploy(**fields)
    return worker


async def ready(mayfly: Platform, number: int, function: str = "f", router: str = "r1") -> None:
    await mayfly.until(lambda state: state["functions"].get(function, {}).get("ready") == number, router)


def told(worker: ScriptedWorker, function: str = "f") -> list[tuple[int, int, int]]:
    return [(h.count, h.keep_alive_ms, h.further_keep_alive_ms) for h in worker.holds if h.function == function]


@pytest.mark.invariant("P11")
async def test_a_minimum_is_ordered_held_and_let_go_again(
    mayfly: Platform, scaler: Scaler, eventually: Eventually
) -> None:
    """Nobody calls: the instances are there, their node is told to keep them; an end of it is told as well."""
    worker = await running(mayfly, max_instances=3)
    await scaler.want(minimum=2)
    await ready(mayfly, 2)
    await eventually(lambda: told(worker)[-1:] == [(2, -1, -1)])
    await scaler.want(minimum=30)
    await ready(mayfly, 3)
    await scaler.want_nothing()
    await eventually(lambda: told(worker)[-1:] == [(0, -1, -1)])
    assert worker.most == 3
    assert not worker.stops


async def test_windows_are_told_to_whoever_has_instances(
    mayfly: Platform, scaler: Scaler, eventually: Eventually
) -> None:
    """Within a second of the first instance, and of a change; not for a version with a keep-alive of its own."""
    worker = await running(mayfly)
    await mayfly.deploy("fixed", keep_alive_s=FIXED)
    for name in ("f", "fixed"):
        await scaler.want(name, keep_alive_s=12, further_keep_alive_s=4.5)
    assert told(worker) == []
    for name in ("f", "fixed"):
        await mayfly.call(f"fn.{name}")
    began = monotonic()
    await eventually(lambda: told(worker) == [(0, 12000, 4500)])
    assert monotonic() - began < 3
    await scaler.want(keep_alive_s=30)
    await eventually(lambda: told(worker)[-1] == (0, 30000, -1))
    assert told(worker, "fixed") == []


@pytest.mark.invariant("S14")
async def test_an_instance_is_there_in_its_window_and_gone_after_it(
    mayfly: Platform, scaler: Scaler, eventually: Eventually
) -> None:
    """So long after the last call one is started, and held; nobody comes, so it is stopped, and none comes after it."""
    worker = await running(mayfly)
    await scaler.want(keep_alive_s=0.1, pre_warm_at_s=1.0, pre_warm_for_s=2.5)
    await mayfly.call()
    idle_at = monotonic()
    await worker.reclaim("f", 1)
    await ready(mayfly, 0)
    await eventually(lambda: len(worker.started) == 2)
    assert 0.9 < monotonic() - idle_at < 3
    await ready(mayfly, 1)
    await eventually(lambda: (1, 100, -1) in told(worker))
    await eventually(lambda: worker.stops)
    assert monotonic() - idle_at > 3.4
    assert [stop.count for stop in worker.stops] == [1]
    await ready(mayfly, 0)
    seen = len(scaler.loads)
    await eventually(lambda: len(scaler.loads) > seen + 2)
    assert len(worker.started) == 2


async def test_a_call_finds_the_instance_of_its_window(mayfly: Platform, scaler: Scaler) -> None:
    """And then it is an instance like any other: nobody stops it."""
    worker = await running(mayfly)
    await scaler.want(keep_alive_s=0.1, pre_warm_at_s=0.5, pre_warm_for_s=3)
    await mayfly.call()
    await worker.reclaim("f", 1)
    await ready(mayfly, 0)
    await ready(mayfly, 1)
    answer = await mayfly.call()
    assert answer["instance"] == next(iter(worker.slots))
    await scaler.want(keep_alive_s=60)
    assert len(worker.started) == 2
    assert not worker.stops


async def test_pauses_are_told_once_and_outlive_a_deploy(
    mayfly: Platform, scaler: Scaler, eventually: Eventually
) -> None:
    """A pause of a second and a bit, in the middle of which a version was deployed, and times of the calls."""
    worker = await running(mayfly)
    worker.service_s = 0.05
    await mayfly.call()
    seen = len(scaler.loads)
    await eventually(lambda: len(scaler.loads) >= seen + 2)
    await mayfly.deploy(version=2)
    await mayfly.call()
    await eventually(lambda: any(load.idle_gaps for load in scaler.of()))
    seen = len(scaler.loads)
    await eventually(lambda: len(scaler.loads) >= seen + 2)
    counts = [load.idle_gaps for load in scaler.of() if load.idle_gaps]
    assert [list(count.values()) for count in counts] == [[1]]
    assert "0" not in counts[0]
    assert not any(load.further_gaps for load in scaler.of())
    last = scaler.of()[-1]
    assert 50 <= last.service_ms < last.p50_ms <= last.p99_ms < 5000
    assert 20 <= last.cold_ms < 5000
    assert (last.oldest_ms, last.blocked) == (0, 0)


async def test_what_finds_no_place_is_told_until_it_has_one(
    mayfly: Platform, scaler: Scaler, eventually: Eventually
) -> None:
    """Instances that were ordered in vain, and how long the first call has waited; nothing of it when it is served."""
    await mayfly.router()
    await mayfly.activator()
    await mayfly.deploy()
    waiting = asyncio.create_task(mayfly.call())
    await eventually(lambda: any(load.blocked == 1 and load.oldest_ms > 500 for load in scaler.of()))
    await mayfly.worker()
    assert (await waiting)["echo"] == "x"
    await eventually(lambda: scaler.of()[-1].blocked == 0 and scaler.of()[-1].oldest_ms == 0)


async def test_an_order_says_which_labels_its_node_must_have(mayfly: Platform, eventually: Eventually) -> None:
    """The function's, to the activator."""
    activator = await mayfly.connect("activator")
    unpack = codec.Unpacker(messages.Activate)
    orders: list[messages.Activate] = []
    await activator.subscribe(
        subjects.ACTIVATE, lambda _s, _r, _h, raw: orders.append(unpack(raw)[0]), queue=subjects.ACTIVATOR_QUEUE
    )
    await mayfly.router()
    await mayfly.deploy(min_instances=1, node_labels={"gpu": "yes"})
    await eventually(lambda: orders)
    assert orders[0].labels == {"gpu": "yes"}


@pytest.mark.invariant("I32")
async def test_without_a_scaler_what_it_said_last_stands(mayfly: Platform, eventually: Eventually) -> None:
    """It wrote its targets and died. Minimum and windows are kept, also by a router that starts later; a lost instance
    is replaced; calls are served, and the limit holds."""
    dead = Scaler(await mayfly.connect("scaler"))
    await dead.want(minimum=2, keep_alive_s=12)
    await dead.bus.close()
    router = await mayfly.router_process("r1")
    await mayfly.activator()
    worker = await mayfly.worker()
    await mayfly.deploy(max_instances=3)
    await ready(mayfly, 2)
    await eventually(lambda: told(worker)[-1:] == [(2, 12000, -1)])
    await worker.reclaim("f", 1)
    await eventually(lambda: len(worker.started) == 4)
    await ready(mayfly, 2)
    router.kill()
    await router.wait()
    worker.holds.clear()
    await mayfly.router()
    await mayfly.callable("f", 1)
    await ready(mayfly, 2)
    await eventually(lambda: told(worker)[-1:] == [(2, 12000, -1)])
    worker.service_s = 0.05
    answers = await asyncio.gather(*(mayfly.call(payload=b"%d" % k) for k in range(30)))
    assert sorted(int(answer["echo"]) for answer in answers) == list(range(30))
    assert worker.most <= 3


async def test_a_new_owner_sees_to_it_and_knows_no_pause(
    mayfly: Platform, scaler: Scaler, eventually: Eventually
) -> None:
    """The function moves to another router: that one tells nodes what to keep, and counts no pause that it did not
    see begin."""
    await mayfly.activator()
    worker = await mayfly.worker()
    await mayfly.router("r1")
    await mayfly.deploy(OF_R2)
    await scaler.want(OF_R2, minimum=1, keep_alive_s=20)
    await mayfly.call(f"fn.{OF_R2}")
    await eventually(lambda: told(worker, OF_R2)[-1:] == [(1, 20000, -1)])
    await mayfly.router("r2")
    await agree(mayfly, "r1", "r2")
    await ready(mayfly, 1, OF_R2, "r2")
    seen = len(scaler.loads)
    await eventually(lambda: len(scaler.loads) >= seen + 4)
    assert not any(hold.count == 0 for hold in worker.holds)
    assert worker.holds[-1].router == "r2"
    await mayfly.call(f"fn.{OF_R2}")
    seen = len(scaler.loads)
    await eventually(lambda: len(scaler.loads) >= seen + 4)
    assert not any(load.functions.get(OF_R2, FunctionLoad()).idle_gaps for load in scaler.loads)
    assert worker.most == 1


async def test_the_last_router_takes_its_word_back(mayfly: Platform, scaler: Scaler, eventually: Eventually) -> None:
    """Workers that end as well need not wait for somebody who replaces what they hold."""
    router = await mayfly.router_process("r1")
    await mayfly.activator()
    worker = await mayfly.worker()
    await mayfly.deploy(min_instances=1)
    await eventually(lambda: told(worker) == [(1, -1, -1)])
    router.terminate()
    assert await router.wait() == 0
    await eventually(lambda: told(worker) == [(1, -1, -1), (0, -1, -1)])


async def test_a_target_that_is_none_is_passed_over(mayfly: Platform, scaler: Scaler) -> None:
    """Somebody writes nonsense into the bucket: what was there before stands, and others' are read."""
    await running(mayfly)
    await mayfly.deploy("g")
    await scaler.want(minimum=1)
    await ready(mayfly, 1)
    bucket = Bucket(scaler.bus, storage.TARGETS)
    await bucket.put(storage.function_target_key("f"), b"{'no json'}")
    await bucket.put(storage.node_target_key("n1"), b"{}")
    await scaler.want("g", minimum=1)
    await ready(mayfly, 1, "g")
    await ready(mayfly, 1)
    assert not isinstance(await mayfly.call(), CallError)
