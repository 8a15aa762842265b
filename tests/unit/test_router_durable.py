"""The durable half of a router, on a wire that loses, repeats and refuses."""

import pytest

from mayfly_proto import headers, messages
from mayfly_proto.errors import CallError, ErrorType
from mayfly_router.call import Call
from tests.unit.router_rig import Rig

BOOM = CallError(ErrorType.FUNCTION_ERROR, "no", component="function")


@pytest.fixture
async def rig() -> Rig:
    return Rig()


def adopted(rig: Rig, sequence: int, *, seq: int = -1) -> Call:
    """The call of an event that another router has sent: the node tells of it."""
    call = Call(f"E{sequence}", f"mayfly.settle.f.EVENTS.f_1.1.{sequence}.1.1.0", None, b"", rig.now)
    call.adopted = True
    node = rig.state.node("n1")
    node.inflight[seq] = call
    assert rig.function.current is not None
    call.share = rig.function.current.occupy(node)
    rig.durable.adopt(call)
    return call


async def test_an_adopted_call_that_comes_back_never_runs_without_its_payload(rig: Rig) -> None:
    """It lay ready at a node that refuses it after all: the stream has the event, this router does not."""
    await rig.deploy()
    adopted(rig, 7)
    rig.done(refused=[(-1, "busy")])
    await rig.rest()
    assert rig.wire.invokes() == []
    assert rig.wire.words() == ["7 -NAK"]
    assert not rig.events.held


async def test_in_an_order_it_runs_again_from_here(rig: Rig) -> None:
    """Those behind it are here already: given back, it would come after them."""
    await rig.deploy(slots=0, ordered="subject.2")
    rig.events.early = None
    rig.durable.recall(rig.function, adopted(rig, 7).deliveries[0])
    rig.wire.streams["EVENTS", 7] = ("event.a.b", b"seven")
    rig.durable.recall(rig.function, rig.events.held[7])
    rig.done(refused=[(-1, "busy")])
    rig.durable.tick(rig.now)
    await rig.rest()
    assert rig.wire.words() == []
    (call,) = rig.function.current.queue  # type: ignore[union-attr]
    assert (call.payload, call.invocation) == (b"seven", "E7")


async def test_a_lost_outcome_does_not_let_others_of_its_key_overtake(rig: Rig) -> None:
    """The first of a key runs again before the second does."""
    await rig.deploy(ordered="subject.2")
    rig.events.early = None
    for sequence in (7, 8):
        rig.deliver(sequence, b"%d" % sequence)
    (first, _) = rig.wire.invokes()[0]
    rig.done(first)
    rig.now += 3
    rig.durable.extend(rig.now)
    rig.durable.tick(rig.now)
    assert [payload for _, payload in rig.wire.invokes()] == [b"7", b"7"]
    rig.outcome(rig.wire.invokes()[1][0])
    assert [payload for _, payload in rig.wire.invokes()] == [b"7", b"7", b"8"]


async def test_what_never_had_its_turn_does_not_end_it(rig: Rig) -> None:
    """A dead letter without a key (it went in a circle) leaves those without a key in their order."""
    await rig.deploy(ordered="Key")
    rig.events.early = None
    rig.deliver(7, b"7")
    rig.deliver(8, b"8")
    rig.deliver(9, b"9", raw=headers.block({headers.DEPTH: "9"}))
    await rig.rest()
    assert "9 +ACK" in rig.wire.words()
    assert [payload for _, payload in rig.wire.invokes()] == [b"7"]
