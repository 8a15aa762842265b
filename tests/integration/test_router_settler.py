"""A verdict carried out on a real server: stored, sent, acknowledged."""

import asyncio

from mayfly_chassis import jetstream
from mayfly_proto import headers, storage
from mayfly_router.durable.delivery import Delivery
from mayfly_router.durable.settle import Verdict, Write
from mayfly_router.durable.settler import ACK, Settler
from mayfly_router.durable.source import Source
from tests.conftest import Connect


async def test_a_destination_that_nobody_listens_on_does_not_hold_an_event_up(connect: Connect) -> None:
    """What has a stream is stored before the acknowledgement; what has none is sent to whoever listens, or nobody."""
    bus = await connect("operator")
    said: asyncio.Queue[bytes] = asyncio.Queue()
    heard: asyncio.Queue[bytes] = asyncio.Queue()
    await bus.subscribe("said", lambda _subject, _reply, _raw, payload: said.put_nowait(payload))
    await bus.subscribe("alerts.heard", lambda _subject, _reply, _raw, payload: heard.put_nowait(payload))
    await bus.flush()
    async with asyncio.TaskGroup() as tasks:
        settler = Settler(bus, lambda name, work: tasks.create_task(work, name=name))
        block = headers.block({})
        writes = [
            Write("event.kept", block, b"1"),
            Write("alerts.unheard", block, b"2", stored=False),
            Write("alerts.heard", block, b"3", stored=False),
        ]
        delivery = Delivery(Source("f", storage.EVENTS, "f_1"), b"said", 1, 7, 0.0)
        settler.carry_out(delivery, Verdict(writes), lambda _delivery, verdict: None)
        assert await asyncio.wait_for(said.get(), 5) == ACK
    assert await asyncio.wait_for(heard.get(), 5) == b"3"
    kept = await jetstream.last(bus, storage.EVENTS, "event.kept")
    assert kept is not None
    assert kept.payload == b"1"
