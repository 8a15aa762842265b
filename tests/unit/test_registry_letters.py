"""A dead letter that goes back to its function says what its publisher said, and nothing of its death."""

from hypothesis import given
from hypothesis import strategies as st

from mayfly_chassis.jetstream import Stored
from mayfly_proto import headers, subjects
from mayfly_registry import letters

OURS = (headers.REASON, headers.ERROR, headers.ATTEMPTS, headers.FAILED_AT, headers.VERSION)
SERVERS = (
    b"Nats-Stream: DLQ\r\nNats-Subject: dlq.hello\r\nNats-Sequence: 8\r\nNats-Time-Stamp: 2026-01-02T03:04:05Z\r\n"
)
NAME = st.from_regex(r"[A-Za-z][A-Za-z0-9-]{0,20}", fullmatch=True).filter(
    lambda name: not name.lower().startswith(("mayfly-", "nats-"))
)
VALUE = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), max_size=30)


def dead(**fields: str) -> Stored:
    raw = headers.block(fields)[:-2] + SERVERS + b"\r\n"
    return Stored(subjects.dead_letter("hello"), 8, raw, b"{}")


@given(st.dictionaries(NAME, VALUE, max_size=5))
def test_the_publishers_headers_survive(theirs: dict[str, str]) -> None:
    """All of them, byte for byte, and whatever their order."""
    death = dict.fromkeys(OURS, "x") | {headers.INVOCATION: "E17", headers.EVENT_SUBJECT: "event.a"}
    found = headers.parse(letters.again(dead(**death, **theirs)))
    assert found == theirs | {
        headers.INVOCATION: "E17",
        headers.EVENT_SUBJECT: "event.a",
        headers.ATTEMPT: "1",
        headers.MESSAGE_ID: "redrive.8.E17",
    }


def test_what_is_the_events_own_goes_along() -> None:
    """A loop stays a loop, a repeated call a repeated call, and one that came by HTTP has a method and a path."""
    own = {headers.DEPTH: "3", headers.IDEMPOTENCY_KEY: "k", headers.HTTP: "POST /x", headers.SOURCE: "E1"}
    assert headers.parse(letters.again(dead(**own))).items() >= own.items()


def test_two_headers_of_one_name_stay_two() -> None:
    """The block is passed on, not rebuilt from a dict."""
    raw = b"NATS/1.0\r\nA: 1\r\nA: 2\r\n" + SERVERS + b"\r\n"
    assert letters.again(Stored(subjects.dead_letter("hello"), 8, raw, b"")).count(b"\r\nA: ") == 2


def test_without_a_time_of_death_the_streams_counts() -> None:
    """Put there by hand: when it was stored is when it failed."""
    assert letters.letter(dead()).failed_at == "2026-01-02T03:04:05.000Z"
