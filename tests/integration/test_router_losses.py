"""What a router does about nodes, frames and words that are lost."""

import asyncio
from time import monotonic

from mayfly_broker.server import EmbeddedServer
from mayfly_proto.errors import CallError, ErrorType
from tests.conftest import Eventually
from tests.integration.router_peers import Platform, ScriptedWorker


async def warm(mayfly: Platform, **fields: object) -> ScriptedWorker:
    """A router, an activator, and a worker with one warm instance of ``f`` whose calls are held."""
    await mayfly.router()
    await mayfly.activator()
    worker = await mayfly.worker()
    await mayfly.deploy(**fields)
    await mayfly.call(payload=b"warm")
    worker.held = asyncio.Event()
    return worker


async def in_flight(mayfly: Platform, number: int) -> None:
    await mayfly.until(lambda state: state["functions"]["f"]["in_flight"] == number)


async def test_a_worker_that_is_cut_off_costs_its_callers_milliseconds(mayfly: Platform) -> None:
    """The server's disconnect event answers calls in flight by 502 node_lost long before any lease ends."""
    worker = await warm(mayfly, max_instances=1)
    running = asyncio.create_task(mayfly.call(payload=b"running"))
    await in_flight(mayfly, 1)
    began = monotonic()
    await worker.die()
    error = await running
    assert error.kind is ErrorType.NODE_LOST
    assert monotonic() - began < 0.5


async def test_a_worker_that_falls_silent_is_given_up_in_seconds(mayfly: Platform) -> None:
    """A stopped worker keeps its connection: three seconds without a heartbeat end the wait of its callers."""
    worker = await warm(mayfly, max_instances=1)
    running = asyncio.create_task(mayfly.call(payload=b"running"))
    await in_flight(mayfly, 1)
    began = monotonic()
    worker.silent = True
    error = await running
    assert error.kind is ErrorType.NODE_LOST
    assert monotonic() - began < 4.5


async def test_a_worker_that_speaks_again_is_used_again(mayfly: Platform) -> None:
    """What it still runs keeps its slot, and no second answer is given for a call that was answered for it."""
    worker = await warm(mayfly, max_instances=1)
    running = asyncio.create_task(mayfly.call(payload=b"running"))
    await in_flight(mayfly, 1)
    worker.silent = True
    assert (await running).kind is ErrorType.NODE_LOST
    worker.silent = False
    await mayfly.until(lambda state: state["nodes"]["n1"]["usable"])
    await in_flight(mayfly, 1)
    assert worker.held is not None
    worker.held.set()
    assert (await mayfly.call(payload=b"again"))["echo"] == "again"
    await in_flight(mayfly, 0)


async def test_an_idempotent_call_runs_again_on_another_node(mayfly: Platform) -> None:
    """A function declared idempotent loses its node and its callers do not notice; the attempt is counted."""
    worker = await warm(mayfly, idempotent=True, max_instances=2)
    running = asyncio.create_task(mayfly.call(payload=b"running"))
    await in_flight(mayfly, 1)
    other = await mayfly.worker("n2")
    await worker.die()
    answer = await asyncio.wait_for(running, 8)  # the lost instance counts until the lease of its node ends: 10 s
    assert (answer["echo"], answer["attempt"]) == ("running", 2)
    assert other.runs[b"running"] == 1


async def test_a_lost_frame_is_sent_again(mayfly: Platform) -> None:
    """A frame that a broken connection swallowed is noticed by the node's reports and reaches it after all, once."""
    worker = await warm(mayfly, max_instances=1)
    worker.held = None
    worker.deaf = True
    running = asyncio.create_task(mayfly.call(payload=b"lost"))
    await in_flight(mayfly, 1)
    worker.deaf = False
    assert (await running)["echo"] == "lost"
    assert worker.runs[b"lost"] == 1


async def test_a_lost_word_does_not_leak_the_slot(mayfly: Platform) -> None:
    """A `Done` that never came is noticed by the node's reports: the only slot serves the next call."""
    worker = await warm(mayfly, max_instances=1)
    worker.held = None
    worker.mute = True
    assert (await mayfly.call(payload=b"first"))["echo"] == "first"
    worker.mute = False
    assert (await mayfly.call(payload=b"second"))["echo"] == "second"
    await in_flight(mayfly, 0)


async def test_a_refused_call_goes_back_to_the_front(mayfly: Platform) -> None:
    """An instance that was reclaimed while a call was under way: the call is served by a new one."""
    worker = await warm(mayfly, max_instances=1)
    worker.held = None
    worker.idle["f", 1].clear()  # reclaimed, and the Route Cache does not know yet
    worker.slots.clear()
    running = asyncio.create_task(mayfly.call(payload=b"refused"))
    await mayfly.until(lambda state: state["functions"]["f"]["queued"] == 1)
    assert worker.refusals["busy"] >= 1
    await worker.write_route("f", 1)
    assert (await running)["echo"] == "refused"
    assert worker.runs[b"refused"] == 1


async def test_an_older_life_of_a_node_is_not_used(mayfly: Platform) -> None:
    """A worker that was started anew has another epoch: the routes of its former life do not count."""
    worker = await warm(mayfly, max_instances=1)
    await worker.die()
    reborn = await mayfly.worker("n1")
    answer = await mayfly.call(payload=b"new")
    assert answer["echo"] == "new"
    assert reborn.refusals == {}


async def test_nothing_is_lost_or_run_twice_over_a_restart_of_nats(
    mayfly: Platform, server: EmbeddedServer, eventually: Eventually
) -> None:
    """The server restarts with a call in flight and one waiting: both are answered by results, and each ran once."""
    worker = await warm(mayfly, max_instances=1)
    first = asyncio.create_task(mayfly.call(payload=b"first"))
    await in_flight(mayfly, 1)
    second = asyncio.create_task(mayfly.call(payload=b"second"))
    await mayfly.until(lambda state: state["functions"]["f"]["queued"] == 1)
    server.stop()
    server.start()
    await eventually(lambda: worker.bus.reconnects == 1 and mayfly.caller.reconnects == 1)
    await worker.renew()
    await mayfly.until(lambda state: state["nodes"]["n1"]["usable"])
    assert worker.held is not None
    worker.held.set()
    answers = await asyncio.gather(first, second)
    assert not any(isinstance(answer, CallError) for answer in answers)
    assert (worker.runs[b"first"], worker.runs[b"second"]) == (1, 1)
    assert (await mayfly.call(payload=b"third"))["echo"] == "third"
