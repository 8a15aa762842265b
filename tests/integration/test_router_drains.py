"""Nodes that are to be empty, on a real server: their owners move what must be ready, and nobody's call suffers."""

import asyncio
from typing import Any

import pytest

from mayfly_proto.errors import CallError
from tests.conftest import Eventually
from tests.integration.router_peers import Platform, ScriptedWorker
from tests.integration.test_router_members import OF_R2, agree


async def node(mayfly: Platform, name: str, **fields: Any) -> ScriptedWorker:
    """One that does as it is told, and is known to the router."""
    worker = await mayfly.worker(name, **fields)
    worker.obedient = True
    await mayfly.until(lambda state: state["nodes"].get(name, {}).get("usable"))
    return worker


async def running(mayfly: Platform, **fields: Any) -> ScriptedWorker:
    """A router, an activator, n1, and ``f`` with a warm instance there."""
    await mayfly.router()
    await mayfly.activator()
    worker = await node(mayfly, "n1")
    await mayfly.deploy(**fields)
    await mayfly.call()
    return worker


def ready(worker: ScriptedWorker) -> int:
    return sum(ready for *_, ready in worker.slots.values())


async def known_to_drain(mayfly: Platform, name: str = "n1", drains: bool = True) -> None:
    await mayfly.until(lambda state: state["nodes"][name]["draining"] is drains)


class Callers:
    """They call all the time, and keep what they are answered."""

    def __init__(self, mayfly: Platform, number: int) -> None:
        self.answers: list[Any] = []
        self._mayfly = mayfly
        self._tasks = [asyncio.create_task(self._call()) for _ in range(number)]
        self._stop = asyncio.Event()

    async def _call(self) -> None:
        while not self._stop.is_set():
            self.answers.append(await self._mayfly.call())

    async def stop(self) -> None:
        self._stop.set()
        await asyncio.gather(*self._tasks)

    @property
    def failed(self) -> list[CallError]:
        return [answer for answer in self.answers if isinstance(answer, CallError)]


async def test_a_function_without_a_minimum_leaves_at_once(mayfly: Platform, eventually: Eventually) -> None:
    """The node is told to stop it, the call that runs there ends there, and the next one runs elsewhere."""
    first = await running(mayfly)
    first.held = asyncio.Event()
    inside = asyncio.create_task(mayfly.call(payload=b"inside"))
    await eventually(lambda: first.running)
    second = await node(mayfly, "n2")
    await first.drain()
    await eventually(lambda: [stop.count for stop in first.stops] == [-1])
    assert (await mayfly.call(payload=b"next"))["instance"] in second.slots
    first.held.set()
    assert (await inside)["echo"] == "inside"
    await eventually(lambda: not first.slots)
    assert first.runs.keys() == {b"x", b"inside"}


@pytest.mark.invariant("S24")
async def test_a_minimum_is_ready_elsewhere_before_it_is_stopped(mayfly: Platform, eventually: Eventually) -> None:
    """While its replacements start, calls go to the node that drains; when they are ready, none does. Not one fails or
    waits for a start, nobody is refused, and no start is asked of the node that drains."""
    first = await running(mayfly, min_instances=2)
    await eventually(lambda: ready(first) == 2)
    second = await node(mayfly, "n2", cold_s=0.5)
    callers = Callers(mayfly, 2)
    await eventually(lambda: len(callers.answers) > 20)
    starts = len(first.started)
    elsewhere: list[int] = []
    first.on_stop = lambda: elsewhere.append(ready(second))
    await first.drain()
    await known_to_drain(mayfly)
    await eventually(lambda: second.started)
    assert not first.stops
    served = len(callers.answers)
    await eventually(lambda: len(callers.answers) > served + 20)
    await eventually(lambda: not first.slots)
    assert elsewhere == [2]
    after = len(callers.answers)
    await eventually(lambda: len(callers.answers) > after + 20)
    await callers.stop()
    assert not callers.failed
    assert len(first.started) == starts
    assert {answer["instance"] for answer in callers.answers[after + 5 :]} <= set(second.slots)


async def test_a_minimum_with_nowhere_to_go_is_served_on(mayfly: Platform, eventually: Eventually) -> None:
    """The only node drains: what must be ready goes on there, and moves when another node comes."""
    first = await running(mayfly, min_instances=1)
    await first.drain()
    await known_to_drain(mayfly)
    for _ in range(10):
        assert (await mayfly.call())["instance"] in first.slots
    await mayfly.until(lambda state: state["functions"]["f"]["blocked"] == 1)
    assert not first.stops
    second = await node(mayfly, "n2")
    await eventually(lambda: first.stops)
    assert (await mayfly.call())["instance"] in second.slots


async def test_a_limit_of_one_moves_with_a_short_wait(mayfly: Platform) -> None:
    """It cannot be in two places at once: calls wait for it, and none fails."""
    first = await running(mayfly, min_instances=1, max_instances=1)
    second = await node(mayfly, "n2", cold_s=0.2)
    callers = Callers(mayfly, 2)
    await first.drain()
    await mayfly.until(lambda state: len(second.slots) == 1 and state["functions"]["f"]["ready"] == 1)
    await callers.stop()
    assert not callers.failed
    assert not first.slots


async def test_a_node_that_drains_no_longer_takes_calls_again(mayfly: Platform, eventually: Eventually) -> None:
    """Taken back, it is a node like any other."""
    first = await running(mayfly)
    await first.drain()
    await eventually(lambda: not first.slots)
    waiting = asyncio.create_task(mayfly.call(payload=b"waiting"))
    await mayfly.until(lambda state: state["functions"]["f"]["queued"] == 1)
    await first.drain(False)
    await known_to_drain(mayfly, drains=False)
    assert (await waiting)["instance"] in first.slots
    assert (await mayfly.call())["instance"] in first.slots


async def test_a_node_that_drains_after_its_word_was_lost_is_told_again(
    mayfly: Platform, eventually: Eventually
) -> None:
    """The order to stop went the way of a broken connection: the Route Cache still shows instances, so it is said
    again."""
    first = await running(mayfly)
    first.obedient = False
    await first.drain()
    await eventually(lambda: len(first.stops) == 1)
    first.obedient = True
    await eventually(lambda: not first.slots, timeout_s=10)
    assert len(first.stops) == 2


@pytest.mark.invariant("S23", "S24")
async def test_under_load_nodes_drain_one_after_the_other_and_no_call_fails(
    mayfly: Platform, eventually: Eventually
) -> None:
    """Three nodes in turn, back and forth, with and without a minimum, while eight callers call."""
    await mayfly.router()
    await mayfly.activator()
    nodes = [await node(mayfly, name) for name in ("n1", "n2", "n3")]
    await mayfly.deploy(min_instances=2)
    callers = Callers(mayfly, 8)
    for worker in [*nodes, *nodes]:
        worker.service_s = 0.002
        await worker.drain()
        await eventually(lambda worker=worker: not worker.slots, timeout_s=10)
        served = len(callers.answers)
        await eventually(lambda served=served: len(callers.answers) > served + 20)
        assert not worker.slots
        await worker.drain(False)
        await known_to_drain(mayfly, worker.name, False)
    await callers.stop()
    assert not callers.failed
    assert sum(sum(worker.runs.values()) for worker in nodes) == len(callers.answers)


async def test_a_new_owner_goes_on_with_a_drain(mayfly: Platform, eventually: Eventually) -> None:
    """The function moves to another router while its minimum waits for a place: that one sees to it."""
    await mayfly.activator()
    await mayfly.router("r1")
    first = await node(mayfly, "n1")
    await mayfly.deploy(OF_R2, min_instances=1)
    await mayfly.call(f"fn.{OF_R2}")
    await first.drain()
    await known_to_drain(mayfly)
    await mayfly.router("r2")
    await agree(mayfly, "r1", "r2")
    assert not first.stops
    second = await mayfly.worker("n2")
    await eventually(lambda: first.stops)
    assert first.stops[0].router == "r2"
    assert (await mayfly.call(f"fn.{OF_R2}"))["instance"] in second.slots
