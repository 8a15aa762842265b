"""The question to a node who its routers are; its answer says what of this router's runs there."""

from mayfly_chassis.bus import Bus
from mayfly_proto import codec, subjects
from mayfly_proto.messages import Adopt, Adopted
from mayfly_router.nodes import Node
from mayfly_router.state import State

ANSWER_S = 1.0

_decode = codec.Unpacker(Adopted)


async def ask(bus: Bus, state: State, node: Node) -> Adopted:
    """Raises what `Bus.request` raises, and ``msgspec.MsgspecError`` or ``ValueError`` for what is no answer."""
    question = Adopt(state.router, state.members.epoch, sorted(state.members.members))
    reply = await bus.request(subjects.node_adopt(node.name), codec.pack(question), timeout_s=ANSWER_S)
    answer, _ = _decode(reply.payload)
    return answer
