"""The durable half of a router, on a wire that loses, repeats and refuses."""

from typing import Any

import pytest

from mayfly_proto import headers, records
from mayfly_proto.errors import CallError, ErrorType
from mayfly_proto.records import Batch, IdempotencyRecord
from mayfly_router.call import Call
from mayfly_router.durable.durable import Started
from tests.unit.router_rig import Rig, spec

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
    call.share = rig.function.current.occupy(node, rig.now)
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
    await rig.rest()
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
    rig.second()
    await rig.rest()
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


def leave(rig: Rig) -> None:
    """The function goes to another router; for a moment outcomes still come here."""
    rig.state.leaving["f"] = rig.state.functions.pop("f")
    for call in rig.function.leave():
        rig.durable.give_back_call(call)
    rig.durable.release([rig.function])


async def test_an_outcome_at_a_router_that_is_about_to_let_go_is_settled_like_any_other(rig: Rig) -> None:
    """A first failure is tried again, and a success goes to its destination: it was a dead letter, and nowhere."""
    await rig.deploy(slots=2, on_success="event.done")
    rig.deliver(7, b"7")
    rig.deliver(8, b"8")
    leave(rig)
    rig.wire.streams |= {("EVENTS", 7): ("event.a.b", b"7"), ("EVENTS", 8): ("event.a.b", b"8")}
    first, second = (invoke for invoke, _ in rig.wire.invokes())
    rig.outcome(first, error=BOOM)
    rig.outcome(second, b"done")
    await rig.rest()
    assert sorted(subject for subject, _, _ in rig.wire.stored) == ["event.done", "mayfly.schedule.f.E7"]


async def test_what_a_batch_names_as_failed_is_not_acknowledged_by_a_router_that_lets_go(rig: Rig) -> None:
    """It knows the first of the batch alone, and that some failed: that one comes again, like the others."""
    await rig.deploy(batch=Batch(size=2, window_s=1))
    leave(rig)
    reply = b"mayfly.settle.f.EVENTS.f_1.1.7.1.1.0"
    rig.durable.on_outcome(reply, b"", None, b'{"batchItemFailures":[{"itemIdentifier":"E7"}]}')
    await rig.rest()
    assert (rig.wire.words(), rig.wire.stored) == (["7 -NAK"], [])


async def test_the_lease_of_an_adopted_call_is_extended_at_once(rig: Rig) -> None:
    """The router that had it may have died three seconds after it did so last."""
    await rig.deploy()
    adopted(rig, 7)
    rig.second()
    assert rig.wire.words() == ["7 +WPI"]


@pytest.mark.parametrize("payload", [b'{"batchItemFailures":["\xff"]}', b'{"batchItemFailures":[],"x":' + b"[" * 9999])
async def test_a_result_that_cannot_be_read_fails_the_whole_batch(rig: Rig, payload: bytes) -> None:
    """Bytes that are no text, brackets without end: none of its events is forgotten."""
    await rig.deploy(batch=Batch(size=2, window_s=1))
    rig.deliver(7)
    rig.deliver(8)
    rig.outcome(rig.wire.invokes()[0][0], payload)
    await rig.rest()
    assert {subject for subject, _, _ in rig.wire.stored} == {"mayfly.schedule.f.E7", "mayfly.schedule.f.E8"}


async def test_a_subject_of_any_bytes_is_an_event_like_any_other(rig: Rig) -> None:
    """The server stores it from anybody; it must not lie here for ever, and take a place in the window."""
    await rig.deploy()
    rig.deliver(7, subject=b"event.a.\xff\xfe")
    rig.outcome(rig.wire.invokes()[0][0])
    assert rig.wire.words() == ["7 +ACK"]
    assert not rig.events.held


async def test_a_message_that_cannot_be_had_is_asked_for_until_it_can(rig: Rig) -> None:
    """NATS does not answer for a moment: the outcome of an adopted call is settled when it does."""
    await rig.deploy(on_success="event.done")
    call = adopted(rig, 7)
    rig.wire.refuses.add("$JS.API.DIRECT.GET.")
    rig.wire.streams["EVENTS", 7] = ("event.a.b", b"7")
    rig.durable.on_outcome(call.reply.encode(), b"", None, b"done")
    await rig.rest()
    assert (rig.wire.words(), rig.wire.stored, set(rig.events.held)) == ([], [], {7})
    rig.wire.refuses.clear()
    await rig.over()
    assert [subject for subject, _, _ in rig.wire.stored] == ["event.done"]
    assert (rig.wire.words(), rig.events.held) == (["7 +ACK"], {})


async def test_a_message_that_is_gone_takes_no_place(rig: Rig) -> None:
    """A call that was taken back elsewhere: held for ever, sixteen of them would close the window."""
    await rig.deploy(on_success="event.done")
    call = adopted(rig, 7)
    rig.durable.on_outcome(call.reply.encode(), b"", None, b"done")
    await rig.rest()
    assert (rig.wire.words(), rig.events.held) == (["7 +ACK"], {})


async def test_a_late_outcome_does_not_end_the_second_run(rig: Rig) -> None:
    """The event came again, and runs: its lease is extended until that is over."""
    await rig.deploy(slots=2)
    rig.deliver(7)
    (first, _) = rig.wire.invokes()[0]
    rig.done(first)
    rig.now += 3
    rig.second()
    rig.deliver(7, times=2)
    rig.outcome(first)
    assert set(rig.events.held) == {7}


async def test_a_frame_that_is_too_large_frees_its_slot(rig: Rig) -> None:
    """Whatever was not counted: the caller hears of it, the next call has the slot."""
    function = await rig.deploy()
    call = Call("i1", "_INBOX.x", b"", b"x" * rig.wire.max_payload, rig.now)
    rig.dispatch.begin(function, call)
    assert rig.wire.sent[-1][0] == "_INBOX.x"
    assert rig.state.node("n1").inflight == {}
    rig.deliver(8)
    assert len(rig.wire.invokes()) == 1


async def test_a_consumer_that_could_not_be_asked_is_asked_later(rig: Rig) -> None:
    """Its question ended just when too much was waiting here for another function."""
    await rig.deploy()
    rig.state.backlog.force(rig.state.backlog.limit)
    ended = headers.PROLOGUE.replace(b"\r\n", b" 408 Request Timeout\r\n") + b"Nats-Pending-Messages: 16\r\n\r\n"
    asked = [subject for subject, _, _ in rig.wire.sent if ".MSG.NEXT." in subject]
    rig.wire.received["_INBOX_router.x.*"](b"_INBOX_router.x.EVENTS-f_1", b"", ended, b"")
    rig.intake.tick(rig.now)
    rig.state.backlog.remove(rig.state.backlog.limit)
    rig.intake.tick(rig.now)
    again = [subject for subject, _, _ in rig.wire.sent if ".MSG.NEXT." in subject]
    assert again[len(asked) :] == ["$JS.API.CONSUMER.MSG.NEXT.EVENTS.f_1"]


async def test_the_barrier_of_a_trigger_that_is_gone_is_waited_for_no_longer(rig: Rig) -> None:
    """No consumer answers for it, ever."""
    await rig.deploy(ordered="subject.2")
    rig.wire.refuses.add("$JS.API.CONSUMER.INFO.EVENTS.")
    rig.function.sources = [source for source in rig.function.sources if source is not rig.events]
    await rig.intake.follow("f", rig.function)
    await rig.over()


async def test_a_success_that_cannot_be_stored_is_not_run_again(rig: Rig) -> None:
    """The stream behind its destination is full: the function has done its work; in an order the next one waits."""
    await rig.deploy(ordered="subject.2", on_success="event.done")
    rig.events.early = None
    rig.deliver(7, b"7")
    rig.deliver(8, b"8")
    rig.wire.refuses.add("event.done")
    rig.outcome(rig.wire.invokes()[0][0])
    await rig.rest()
    assert (rig.wire.words(), [payload for _, payload in rig.wire.invokes()]) == ([], [b"7"])
    rig.wire.refuses.clear()
    await rig.over()
    assert [subject for subject, _, _ in rig.wire.stored] == ["event.done"]
    assert (rig.wire.words(), [payload for _, payload in rig.wire.invokes()]) == (["7 +ACK"], [b"7", b"8"])


@pytest.mark.parametrize("fields", [{"ordered": "subject.2"}, {"batch": Batch(size=3, window_s=1)}])
async def test_a_call_that_waits_for_others_can_be_taken_back(rig: Rig, fields: dict[str, Any]) -> None:
    """For those of its key before it, or for its batch: it said that it was cancelled, and ran all the same."""
    function = await rig.deploy(**fields)
    source = next(source for source in function.sources if source.stream == "ASYNC")
    source.early = None
    for sequence in (7, 8):
        rig.deliver(sequence, b"%d" % sequence, stream="ASYNC")
    found = rig.durable.waiting(function, "A8")
    assert found is not None
    rig.durable.cancel(function, found)
    await rig.rest()
    assert [subject for subject, _, _ in rig.wire.stored] == ["result.A8.f"]
    assert (set(source.held), source.parked) == ({7}, 0)
    rig.now += 2
    rig.durable.tick(rig.now)
    for invoke, _ in rig.wire.invokes():
        rig.outcome(invoke)
        await rig.rest()
    assert all(b"8" not in payload for _, payload in rig.wire.invokes())
    with pytest.raises(Started):
        rig.deliver(9, b"9", stream="ASYNC")
        rig.now += 2
        rig.durable.tick(rig.now)
        rig.durable.waiting(function, "A9")


async def test_a_slow_key_leaves_room_for_others(rig: Rig) -> None:
    """A window full of events that wait for one of their key: those of other keys come all the same."""
    await rig.deploy(slots=2, ordered="subject.2")
    source = rig.events
    source.early = None
    rig.intake.tick(rig.now)
    asked = source.asked
    for sequence in range(1, asked + 1):
        rig.deliver(sequence, b"slow")
    rig.now += 1
    rig.intake.tick(rig.now)
    assert (source.asked > 0, source.parked) == (True, asked - 1)
    rig.deliver(100, b"other", subject=b"event.z.b")
    assert [payload for _, payload in rig.wire.invokes()] == [b"slow", b"other"]
    rig.outcome(rig.wire.invokes()[0][0])
    assert source.parked == asked - 2


async def test_a_key_that_waits_for_its_next_attempt_takes_no_place(rig: Rig) -> None:
    """Minutes of back-off, in an order, are this key's alone."""
    await rig.deploy(ordered="subject.2")
    rig.events.early = None
    rig.deliver(1)
    rig.outcome(rig.wire.invokes()[0][0], error=BOOM)
    assert rig.events.parked == 1
    rig.now += 10
    rig.durable.tick(rig.now)
    assert (rig.events.parked, len(rig.wire.invokes())) == (0, 2)


async def test_what_is_being_settled_is_not_given_back(rig: Rig) -> None:
    """Another version wants its events in another form: one that has run already does not run again for that."""
    function = await rig.deploy(on_success="event.done")
    rig.deliver(7)
    rig.outcome(rig.wire.invokes()[0][0])
    rig.durable.reline(function, spec(ordered="subject.2"))
    await rig.rest()
    assert rig.wire.words() == ["7 +ACK"]


async def test_a_batch_can_be_full(rig: Rig) -> None:
    """As many are asked for as one call takes: else each waits for the end of its window, whatever waits upstream."""
    await rig.deploy(slots=0, batch=Batch(size=500, window_s=60))
    assert rig.events.asked == 500
    for sequence in range(500):
        rig.deliver(sequence)
    assert rig.function.waiting == 1


async def test_what_takes_its_routers_with_it_has_no_more_attempts(rig: Rig) -> None:
    """A hundred deliveries without an outcome: a schedule would begin a hundred more."""
    await rig.deploy()
    rig.deliver(7, times=200)
    await rig.rest()
    ((subject, block, _),) = rig.wire.stored
    assert subject == "dlq.f"
    assert "200 times in vain" in headers.parse(block)[headers.REASON]


async def test_repeated_calls_leave_room_for_others(rig: Rig) -> None:
    """They wait for the first one's result, which may take its time, and fill no window."""
    function = await rig.deploy()
    source = next(source for source in function.sources if source.stream == "ASYNC")
    rig.wire.claimed = records.encode(IdempotencyRecord(invocation="A1", until=2e9))
    for sequence in range(2, 2 + source.asked):
        rig.deliver(sequence, raw=headers.block({headers.IDEMPOTENCY_KEY: "k"}), stream="ASYNC")
    await rig.rest()
    assert source.parked == len(source.held)
    for delivery in list(source.held.values()):
        rig.durable.give_back(delivery)
    await rig.over()


async def test_what_another_router_has_settled_does_not_run_again_in_its_order(rig: Rig) -> None:
    """It let the function go, and the outcome came to it still: the next of the key runs."""
    await rig.deploy(ordered="subject.2")
    rig.events.early = None
    for sequence in (7, 8):
        rig.deliver(sequence, b"%d" % sequence)
    rig.done(rig.wire.invokes()[0][0])
    rig.wire.acked = 7
    rig.now += 3
    rig.second()
    await rig.rest()
    assert [payload for _, payload in rig.wire.invokes()] == [b"7", b"8"]


def fired(identity: str, following: str) -> bytes:
    return headers.block({headers.SCHEDULER: f"mayfly.schedule.f.{identity}", headers.SCHEDULE_NEXT: following})


async def test_a_tick_that_the_server_makes_twice_runs_once(rig: Rig) -> None:
    """The second message of it is acknowledged, and nothing runs."""
    await rig.deploy(triggers=[records.Trigger(schedule="@hourly", number=1)])
    rig.wire.claimed = records.encode(IdempotencyRecord(invocation="S7", until=1e12))
    rig.deliver(8, raw=fired("t1", "2099-01-01T00:00:00Z"), stream="SCHEDULES")
    await rig.rest()
    assert (rig.wire.invokes(), rig.wire.words()) == ([], ["8 +ACK"])
    rig.deliver(7, raw=fired("t1", "2099-01-01T00:00:00Z"), stream="SCHEDULES")
    await rig.rest()
    assert [invoke.invocation for invoke, _ in rig.wire.invokes()] == ["S7"]


@pytest.mark.parametrize(("missed", "runs"), [("latest", 0), ("all", 1)])
async def test_a_tick_that_comes_after_the_next_one_is_due(rig: Rig, missed: str, runs: int) -> None:
    """It is left out, since a later one runs; unless each is wanted."""
    await rig.deploy(triggers=[records.Trigger(schedule="@hourly", number=1, missed=missed)])
    rig.deliver(7, raw=fired("t1", "2000-01-01T00:00:00Z"), stream="SCHEDULES")
    await rig.rest()
    assert len(rig.wire.invokes()) == runs
    assert rig.wire.words() == ([] if runs else ["7 +ACK"])
