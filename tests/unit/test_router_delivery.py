"""What a delivery's numbers and headers say, and how deliveries are put in lanes, batches and windows."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mayfly_proto import headers, subjects
from mayfly_proto.records import Batch
from mayfly_router.call import Call
from mayfly_router.durable import batching, timing
from mayfly_router.durable.batching import Gathering
from mayfly_router.durable.delivery import Delivery, parse_ack, parse_settle
from mayfly_router.durable.ordering import Lanes, key
from mayfly_router.durable.source import LARGEST_WINDOW, SMALLEST_WINDOW, Source, window
from mayfly_router.line import Line

ACK = b"$JS.ACK.EVENTS.shop_bill_1.2.17.19.1700000000000000000.5"


def delivery(
    sequence: int = 17, subject: bytes = b"event.orders.eu.created", raw: bytes | None = None, payload: bytes = b"{}"
) -> Delivery:
    ack = ACK.replace(b".17.", b".%d." % sequence)
    return Delivery(Source("shop.bill", "EVENTS", "shop_bill_1"), ack, 1, sequence, 0.0).fill(subject, raw, payload)


def test_the_settle_subject_says_which_delivery_it_is() -> None:
    """A router that has never seen a delivery can acknowledge it by the subject of its outcome."""
    assert parse_settle(delivery().settle) == ("shop.bill", ACK)
    assert parse_ack(ACK) == (b"EVENTS.shop_bill_1", 2, 17, 5)
    assert len(ACK.removeprefix(subjects.ACK_PREFIX.encode()).split(b".")) == subjects.ACK_TOKENS


def test_a_publisher_cannot_forge_where_it_published() -> None:
    """The router's line is the last of its name, and the last one counts."""
    raw = headers.block({headers.EVENT_SUBJECT: "event.admin", "X-Own": "1"})
    assert headers.parse(delivery(raw=raw).for_handler()) == {
        headers.EVENT_SUBJECT: "event.orders.eu.created",
        "X-Own": "1",
    }
    assert headers.parse(delivery().for_handler()) == {headers.EVENT_SUBJECT: "event.orders.eu.created"}


def test_a_publisher_cannot_forge_attempts() -> None:
    """What headers say about attempts is believed in the stream of schedules only."""
    raw = headers.block({headers.ATTEMPT: "99", headers.INVOCATION: "A1", headers.FIRST_AT: "1"})
    forged = delivery(raw=raw)
    assert (forged.invocation, forged.attempt, forged.first_at) == ("E17", 1, 0)


def test_headers_of_nats_and_of_attempts_do_not_travel() -> None:
    """A retry is the publisher's message again, not the stored one with all that was added."""
    raw = headers.block(
        {"Nats-Msg-Id": "1", "X-Own": "1", headers.REASON: "no", headers.DEPTH: "2", headers.HTTP: "GET /"}
    )
    assert headers.parse(headers.publishers(raw)) == {"X-Own": "1", headers.DEPTH: "2", headers.HTTP: "GET /"}
    assert headers.publishers(headers.block({"Nats-Msg-Id": "1"})) is None
    assert headers.publishers(None) is None


@pytest.mark.parametrize("said", ["", "x", "-1", "99999999999999999999"])
def test_a_depth_that_is_no_number_is_none(said: str) -> None:
    """Whatever a publisher writes there, the router survives it."""
    assert delivery(raw=headers.block({headers.DEPTH: said})).depth in (0, 999999)


# lanes


@pytest.mark.parametrize(
    ("ordered", "found"),
    [("subject.3", "eu"), ("subject.9", ""), ("Order-Id", "7"), ("order-id", "7"), ("Missing", "")],
)
def test_the_key_is_a_token_or_a_header(ordered: str, found: str) -> None:
    """By number from 1, or by name whatever its case."""
    assert key(ordered, delivery(raw=headers.block({"Order-Id": "7"}))) == found


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.randoms(use_true_random=False))
def test_one_at_a_time_and_in_order_for_each_key(keys: list[int], chance: object) -> None:
    """Whatever finishes when: of one key the next begins when the one before is settled, in the order they came."""
    lanes = Lanes("subject.2")
    running: list[Delivery] = []
    begun: list[Delivery] = []
    for sequence, name in enumerate(keys):
        event = delivery(sequence + 1, f"event.k{name}".encode())
        if lanes.enter(event):
            running.append(event)
            begun.append(event)
    while running:
        assert len({event.key for event in running}) == len(running)
        done = running.pop(chance.randrange(len(running)))  # type: ignore[attr-defined]
        if (following := lanes.leave(done)) is not None:
            running.append(following)
            begun.append(following)
    for name in set(keys):
        sequences = [event.sequence for event in begun if event.key == f"k{name}"]
        assert sequences == sorted(sequences)
    assert len(begun) == len(keys)


def test_what_never_ran_frees_no_lane() -> None:
    """Refused at the door, put off or taken back while it waited: the one before it goes on alone."""
    lanes = Lanes("subject.2")
    first, second, third, refused = (delivery(sequence, b"event.k") for sequence in range(1, 5))
    assert [lanes.enter(event) for event in (first, second, third)] == [True, False, False]
    assert lanes.leave(refused) is None
    lanes.remove(second)
    assert lanes.leave(second) is None
    assert lanes.leave(first) is third
    assert lanes.leave(third) is None
    assert lanes.enter(second)


# batches


def test_a_batch_goes_when_it_is_full() -> None:
    """As many as were asked for, no more."""
    gathering = Gathering(Batch(size=3, window_s=1), 10_000)
    assert [len(gathering.add(delivery(n), 0)) for n in range(1, 8)] == [0, 0, 3, 0, 0, 3, 0]


def test_a_batch_goes_when_its_window_is_over() -> None:
    """The window begins with its first event."""
    gathering = Gathering(Batch(size=3, window_s=1), 10_000)
    gathering.add(delivery(1), 5.0)
    gathering.add(delivery(2), 5.9)
    assert gathering.due(5.99) == []
    assert [event.sequence for event in gathering.due(6.0)] == [1, 2]
    assert gathering.due(9) == []


def test_a_batch_is_never_larger_than_a_message() -> None:
    """What does not fit any more begins the next one."""
    gathering = Gathering(Batch(size=100, window_s=1), 3000)
    assert gathering.add(delivery(1, payload=b"x" * 1500), 0) == []
    assert [event.sequence for event in gathering.add(delivery(2, payload=b"x" * 1500), 0)] == [1]
    assert [event.sequence for event in gathering.take()] == [2]


def test_the_wire_of_a_batch() -> None:
    """As the runtimes' contract has it; it has come as far as the farthest of its events."""
    far = headers.block({"X": "1", headers.DEPTH: "3"})
    block, payload = batching.pack([delivery(1, raw=far), delivery(2)])
    assert headers.parse(block) == {headers.BATCH: "2", headers.DEPTH: "3"}
    assert msgspec.msgpack.decode(payload) == [
        ["E1", "event.orders.eu.created", far, 1, b"{}"],
        ["E2", "event.orders.eu.created", None, 1, b"{}"],
    ]


@pytest.mark.parametrize(
    ("result", "failed"),
    [
        (b"null", []),
        (b'{"batchItemFailures": []}', []),
        (b'{"batchItemFailures": [{"itemIdentifier": "E2"}]}', [2]),
        (b'{"batchItemFailures": [{"itemIdentifier": "E2"}, {"itemIdentifier": "E9"}]}', [1, 2]),
        (b'{"batchItemFailures": "all"}', [1, 2]),
        (b'"batchItemFailures', [1, 2]),
    ],
)
def test_who_failed_in_a_batch(result: bytes, failed: list[int]) -> None:
    """Those that are named; all of them when it cannot be told: nothing is taken for done that may not be."""
    assert [event.sequence for event in batching.failed((delivery(1), delivery(2)), result)] == failed


# windows


def test_a_window_follows_what_can_run() -> None:
    """Enough for the slots, more ahead for short calls, and never without bounds."""
    assert window(0, None) == SMALLEST_WINDOW
    assert window(64, 1.0) == 128
    assert window(64, 0.0001) == LARGEST_WINDOW
    assert window(1, 0.0001) == 33


@given(st.integers(1, LARGEST_WINDOW), st.integers(0, 2000), st.integers(0, 2000))
def test_no_more_is_asked_for_than_the_window(size: int, asked: int, held: int) -> None:
    """What is here, what is on its way and what is asked for now fit together."""
    source = Source("f", "EVENTS", "f_1")
    source.asked = asked
    source.held = {number: delivery(number) for number in range(min(held, 50))}
    missing = source.missing(size)
    assert missing == 0 or asked + len(source.held) + missing == size
    assert missing >= 0


def test_whoever_waits_for_an_answer_goes_first() -> None:
    """Durable calls wait for those behind which somebody waits; each kind keeps its order."""
    calls = [Call(str(number), "", None, b"", float(number)) for number in range(4)]
    for call in (calls[0], calls[2]):
        call.deliveries = (delivery(),)
    line = Line(calls)
    assert line.since == 0.0
    assert line.urgent == 2
    assert [line.popleft().invocation for _ in range(4)] == ["1", "3", "0", "2"]
    assert not line


# times


def test_calls_for_later() -> None:
    """By a delay or a time with its zone; what is past runs at once."""
    assert timing.wanted_at(headers.block({headers.DELAY: "1.5"}), 100.0) == 101.5
    assert timing.wanted_at(headers.block({headers.AT: "1970-01-01T01:02:00+01:00"}), 100.0) == 120.0
    assert timing.wanted_at(headers.block({headers.AT: "1970-01-01T00:00:10Z"}), 100.0) is None
    assert timing.wanted_at(headers.block({"X": "1"}), 100.0) is None


@pytest.mark.parametrize(
    "fields",
    [{headers.DELAY: value} for value in ("soon", "-1", "nan", "inf", "1e12")]
    + [{headers.AT: value} for value in ("tomorrow", "2026-01-01T00:00:00", "")],
)
def test_a_time_that_is_none_is_named(fields: dict[str, str]) -> None:
    """The sentence says which header, and what would be right."""
    with pytest.raises(ValueError, match=next(iter(fields))):
        timing.wanted_at(headers.block(fields), 100.0)


def test_ticks_of_a_schedule_have_an_identity() -> None:
    """The schedule and the next time: the same for a tick that the server makes twice, never for two."""
    raw = headers.block(
        {headers.SCHEDULER: "mayfly.schedule.shop.bill.t2", headers.SCHEDULE_NEXT: "2026-11-25T18:05:00Z"}
    )
    found = timing.tick(raw)
    assert found is not None
    assert (found.trigger, found.identity) == (2, "t2 2026-11-25T18:05:00Z")
    assert found.next_at == 1795629900.0


def test_a_retry_is_no_tick() -> None:
    """It was fired by a schedule, too."""
    raw = headers.block({headers.SCHEDULER: "mayfly.schedule.f.E7", headers.SCHEDULE_NEXT: "purge"})
    assert timing.tick(raw) is None


@pytest.mark.parametrize(
    "raw", [b"NATS/1.0\r\nMayfly-Subject: event.admin\r\nX: a", b"NATS/1.0\r\nMayfly-Subject: event.admin", b"garbage"]
)
def test_a_block_without_an_end_forges_nothing(raw: bytes) -> None:
    """The server passes it on: the router's line is a line of its own all the same."""
    assert headers.parse(delivery(raw=raw).for_handler())[headers.EVENT_SUBJECT] == "event.orders.eu.created"
    assert headers.parse(headers.added(raw, {"A": "b"}))["A"] == "b"


def test_what_is_held_is_counted_in_bytes() -> None:
    """Large events fill the router's memory before they fill a window: their sum has a bound, so it has to be true."""
    source = Source("f", "EVENTS", "f_1")
    held = []
    for sequence in range(3):
        each = Delivery(source, ACK, 1, sequence, 0.0)
        source.held[sequence] = each
        held.append(each.fill(b"event.a", None, b"x" * 100))
    held[0].fill(b"event.a", None, b"x" * 100)
    Delivery(source, ACK, 1, 9, 0.0).fill(b"event.a", None, b"of another router")
    assert source.bytes == 300
    held[0].drop()
    held[0].drop()
    assert source.bytes == 200
    source.clear()
    held[1].drop()
    assert source.bytes == 0
