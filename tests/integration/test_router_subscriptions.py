"""What a router is subscribed to, on a real server."""

import asyncio

import pytest

from mayfly_chassis.errors import NoResponders
from mayfly_proto import headers, subjects
from mayfly_proto.records import RouterMembers
from mayfly_router.dispatch import Dispatch
from mayfly_router.durable.events import Events
from mayfly_router.state import State
from mayfly_router.subscriptions import Subscriptions
from tests.conftest import Connect
from tests.unit.router_parts import function_of

PROBE = headers.block({headers.PROBE: "1"})


async def test_a_router_is_released_only_when_nothing_comes_any_longer(connect: Connect) -> None:
    """It is, before it has functions; it is not from the moment in which it is to follow some, until the last of them
    is unsubscribed: who ends in between ends with calls on their way to it."""
    bus, caller = await connect("router"), await connect("client")
    loop = asyncio.get_running_loop()
    state = State("r1", 10**6)
    dispatch = Dispatch(bus, state, 1.0, loop.call_soon)
    events = Events(bus, state, dispatch, lambda name, work: loop.create_task(work, name=name), loop.call_soon)
    subscriptions = Subscriptions(bus, state, dispatch, events)
    keeping = loop.create_task(subscriptions.keep())
    await subscriptions.release()

    state.functions["f"] = function_of(1)
    state.members = RouterMembers(epoch=1, members={"r1": bus.identity})
    subscriptions.members_changed(["f"])
    released = loop.create_task(subscriptions.release())
    await subscriptions.complete()
    await caller.request(subjects.call("f"), headers=PROBE)
    assert not released.done()

    del state.functions["f"]
    subscriptions.changed(["f"])
    await released
    with pytest.raises(NoResponders):
        await caller.request(subjects.call("f"), headers=PROBE)
    keeping.cancel()
