"""What a router that leaves asks the nodes last: have you seen all that I sent?

A node may refuse a frame, for its instance has just gone, or for the new owner was there before it; the refusal comes
to the router that sent it, and only that one has the call. The question goes the way of the frames, its answer the way
of the refusals. So when the answer is here, so is every call that no instance took, and is passed on.
"""

import asyncio

import msgspec

from mayfly_chassis.bus import Bus
from mayfly_chassis.errors import BusError, NoResponders
from mayfly_router import adoption
from mayfly_router.dispatch import Dispatch
from mayfly_router.nodes import Node
from mayfly_router.state import State

RETRY_S = 0.05


async def hear_out(bus: Bus, state: State, dispatch: Dispatch) -> None:
    """Ask until every node with calls of ours has answered, or is gone. This router is no member any more."""
    asked = [node for node in state.nodes.values() if any(not call.adopted for call in node.inflight.values())]
    await asyncio.gather(*(_hear_out(bus, state, dispatch, node) for node in asked))


async def _hear_out(bus: Bus, state: State, dispatch: Dispatch, node: Node) -> None:
    while True:
        reconnects = bus.reconnects
        try:
            answer = await adoption.ask(bus, state, node)
        except NoResponders:
            return  # whoever owns its functions answers for the node
        except (BusError, msgspec.MsgspecError, ValueError):
            await asyncio.sleep(RETRY_S)
            continue
        if bus.reconnects == reconnects:
            break
    if answer.node_epoch == node.epoch:
        lost = [seq for seq, call in node.inflight.items() if seq > answer.last_seq and not call.adopted]
        dispatch.requeue([node.inflight.pop(seq) for seq in lost], state.clock())
