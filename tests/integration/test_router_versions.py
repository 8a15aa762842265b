"""New versions, rollbacks and deletions while calls wait and run."""

import asyncio

import pytest

from mayfly_chassis.errors import NoResponders
from mayfly_proto.errors import ErrorType
from tests.conftest import Eventually
from tests.integration.router_peers import Platform, ScriptedWorker


async def held(mayfly: Platform, **fields: object) -> ScriptedWorker:
    await mayfly.router()
    await mayfly.activator()
    worker = await mayfly.worker()
    worker.held = asyncio.Event()
    await mayfly.deploy(max_instances=1, **fields)
    return worker


async def queued(mayfly: Platform, number: int) -> None:
    await mayfly.until(lambda state: state["functions"]["f"]["queued"] == number)


async def test_a_new_version_takes_over_those_who_wait(mayfly: Platform) -> None:
    """The call that runs ends on the old version; those that wait go to the new one; the old instances are stopped."""
    worker = await held(mayfly)
    running = asyncio.create_task(mayfly.call(payload=b"running"))
    await mayfly.until(lambda state: state["functions"]["f"]["in_flight"] == 1)
    waiting = asyncio.create_task(mayfly.call(payload=b"waiting"))
    await queued(mayfly, 1)
    await mayfly.deploy(version=2, max_instances=2)
    assert worker.held is not None
    worker.held.set()
    assert (await running)["version"] == 1
    assert (await waiting)["version"] == 2
    assert [(stop.version, stop.count) for stop in worker.stops] == [(1, -1)]


async def test_a_pinned_call_stays_with_its_version(mayfly: Platform) -> None:
    """``fn.f@1`` runs version 1 also when version 2 has become current while it waited."""
    worker = await held(mayfly)
    running = asyncio.create_task(mayfly.call(payload=b"running"))
    await mayfly.until(lambda state: state["functions"]["f"]["in_flight"] == 1)
    pinned = asyncio.create_task(mayfly.call("fn.f@1", payload=b"pinned"))
    await queued(mayfly, 1)
    await mayfly.deploy(version=2)
    assert worker.stops == []
    assert worker.held is not None
    worker.held.set()
    assert [(await call)["version"] for call in (running, pinned)] == [1, 1]
    assert (await mayfly.call("fn.f@1"))["version"] == 1


async def test_a_rollback_is_a_switch_like_any_other(mayfly: Platform) -> None:
    """After pointing back to version 1, calls run version 1."""
    await mayfly.router()
    await mayfly.activator()
    await mayfly.worker()
    await mayfly.deploy()
    await mayfly.deploy(version=2)
    assert (await mayfly.call())["version"] == 2
    await mayfly.point("f", 1, [1, 2])
    await mayfly.callable("f", 1)
    assert (await mayfly.call())["version"] == 1


async def test_who_waits_for_a_deleted_function_gets_404(mayfly: Platform, eventually: Eventually) -> None:
    """Deletion answers the waiting calls, stops the instances, and then nobody listens."""
    worker = await held(mayfly)
    running = asyncio.create_task(mayfly.call(payload=b"running"))
    await mayfly.until(lambda state: state["functions"]["f"]["in_flight"] == 1)
    waiting = asyncio.create_task(mayfly.call())
    await queued(mayfly, 1)
    await mayfly.delete("f")
    assert (await waiting).kind is ErrorType.NOT_FOUND
    assert worker.held is not None
    worker.held.set()
    assert (await running)["echo"] == "running"
    await eventually(lambda: bool(worker.stops))
    with pytest.raises(NoResponders):
        while True:
            await mayfly.call()


async def test_the_limit_counts_all_versions(mayfly: Platform) -> None:
    """With the limit reached by idle instances of an old version, those are stopped and the new one gets its turn."""
    await mayfly.router()
    await mayfly.activator()
    worker = await mayfly.worker()
    await mayfly.deploy(max_instances=1)
    await mayfly.deploy(version=2, max_instances=1)
    assert (await mayfly.call("fn.f@1"))["version"] == 1
    worker.stops.clear()
    waiting = asyncio.create_task(mayfly.call())
    async with asyncio.timeout(5):
        while not worker.stops:
            await asyncio.sleep(0.01)
    assert (worker.stops[0].version, worker.stops[0].count) == (1, 1)
    assert worker.most == 1
    await worker.reclaim("f", 1)
    assert (await waiting)["version"] == 2


async def test_a_hundred_deploys_with_calls_never_miss(mayfly: Platform) -> None:
    """A call right after a deploy runs the new version, every time, and calls under way are not disturbed."""
    await mayfly.router()
    await mayfly.activator()
    worker = await mayfly.worker()
    worker.cold_s = 0.0
    for version in range(1, 101):
        await mayfly.deploy(version=version, versions=list(range(max(1, version - 9), version + 1)))
        assert (await mayfly.call())["version"] == version
        await worker.reclaim("f", version)
