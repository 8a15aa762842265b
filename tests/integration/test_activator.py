"""A real activator on a real server: orders placed on scripted nodes."""

import asyncio

import pytest

from mayfly_activator import sweeper
from mayfly_chassis.bus import Bus
from mayfly_chassis.kv import Bucket
from mayfly_proto import codec, errors, records, storage, subjects
from mayfly_proto.messages import Activate, Activated, Refusal
from mayfly_proto.records import Route
from tests.integration.router_peers import Platform


async def order(bus: Bus, number: int, *, memory_mb: int = 100, epoch: int = 1, prefix: str = "i") -> Activated:
    instances = [f"{prefix}{k}" for k in range(number)]
    meta = Activate("r1", epoch, "f", 1, instances, memory_mb, 2000)
    reply = await bus.request(subjects.ACTIVATE, codec.pack(meta))
    return codec.Unpacker(Activated)(reply.payload)[0]


async def test_what_one_node_refuses_another_takes(mayfly: Platform) -> None:
    """The activator believes that n1 has room; n1 knows better; the instance goes to n2."""
    first, second = [await mayfly.worker(name, memory_mb=1000) for name in ("n1", "n2")]
    first.memory_mb = 0  # its lease promised more
    await mayfly.activator()
    answer = await order(await mayfly.connect("router"), 2)
    assert answer == Activated({"i0": "n2", "i1": "n2"})
    assert (len(first.slots), len(second.slots)) == (0, 2)


async def test_the_rest_is_said_with_its_reason(mayfly: Platform) -> None:
    """Two nodes with room for one instance each take two of three; the third has no room."""
    for name in ("n1", "n2"):
        await mayfly.worker(name, memory_mb=100)
    await mayfly.activator()
    answer = await order(await mayfly.connect("router"), 3)
    assert sorted(answer.placed.values()) == ["n1", "n2"]
    assert answer.reason == Refusal.NO_ROOM


async def test_no_worker_at_all_is_a_reason_of_its_own(mayfly: Platform) -> None:
    """A router may wait for a worker that is being restarted; it cannot wait for memory."""
    await mayfly.activator()
    assert await order(await mayfly.connect("router"), 1) == Activated({}, Refusal.NO_NODES)


async def test_orders_at_the_same_moment_do_not_overfill_a_node(mayfly: Platform) -> None:
    """Twenty orders at once, from two activators, for room for ten: ten instances, none of the nodes overfilled."""
    workers = [await mayfly.worker(name, memory_mb=500) for name in ("n1", "n2")]
    await mayfly.activator()
    await mayfly.activator()
    bus = await mayfly.connect("router")
    answers = await asyncio.gather(*(order(bus, 1, prefix=f"i{k}x") for k in range(20)))
    assert sum(len(answer.placed) for answer in answers) == 10
    assert [len(worker.slots) for worker in workers] == [5, 5]


async def test_an_order_of_a_former_owner_is_passed_back_as_stale(mayfly: Platform) -> None:
    """The worker follows newer members: the router must hear that, not that there is no room."""
    worker = await mayfly.worker()
    worker.fence = (7, ["r2"])
    await mayfly.activator()
    assert await order(await mayfly.connect("router"), 1, epoch=3) == Activated({}, Refusal.STALE)


async def test_a_node_that_is_cut_off_is_passed_over(mayfly: Platform) -> None:
    """A lease that has not ended yet is no reason to lose an order."""
    first = await mayfly.worker("n1")
    await mayfly.worker("n2")
    await mayfly.activator()
    await first.die()
    assert await order(await mayfly.connect("router"), 1) == Activated({"i0": "n2"})


async def test_an_order_without_an_answer_is_not_given_to_a_second_node(mayfly: Platform) -> None:
    """It may be starting there: a further one could exceed the function's limit, and would serve the same call."""
    first, second = [await mayfly.worker(name) for name in ("n1", "n2")]
    first.silent = True
    await mayfly.activator()
    assert await order(await mayfly.connect("router"), 1) == Activated({"i0": "n1"})
    assert second.slots == {}


async def test_an_order_is_tried_on_three_nodes_and_no_more(mayfly: Platform) -> None:
    """Then its router hears why, and may order again; it does not wait for all nodes of a large cluster to refuse."""
    workers = [await mayfly.worker(f"n{number}") for number in range(1, 6)]
    for worker in workers:
        worker.memory_mb = 0  # its lease promised more
    await mayfly.activator()
    assert await order(await mayfly.connect("router"), 1) == Activated({}, Refusal.NO_ROOM)
    assert sum(worker.asked for worker in workers) == 3


async def test_nonsense_is_answered_as_such(mayfly: Platform) -> None:
    """A malformed order gets 400, and the next one is served."""
    await mayfly.worker()
    await mayfly.activator()
    bus = await mayfly.connect("router")
    reply = await bus.request(subjects.ACTIVATE, b"nonsense")
    error = errors.from_reply(reply.headers, reply.payload)
    assert error is not None
    assert error.kind.code == 400
    assert (await order(bus, 1)).placed == {"i0": "n1"}


async def test_routes_of_nodes_that_are_gone_are_swept(mayfly: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries of a node without a lease go; those of a living node stay."""
    monkeypatch.setattr(sweeper, "SWEEP_S", 0.05)
    worker = await mayfly.worker("n1")
    bucket = Bucket(worker.bus, storage.ROUTES)
    route = records.encode(Route(epoch=1, instances=["i1"], slots=1))
    for key in ("n1.1.f", "n9.1.f", "n9.2.billing.charge"):
        await bucket.put(key, route)
    await mayfly.activator()
    async with asyncio.timeout(5):
        while set(await bucket.load()) != {"n1.1.f"}:
            await asyncio.sleep(0.01)
