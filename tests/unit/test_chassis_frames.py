"""What a NATS server sends, taken apart."""

import time
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from mayfly_chassis.frames import Parser

Call = tuple[bytes, bytes, bytes | None, bytes]
HEADERS = b"NATS/1.0\r\nA: b\r\n\r\n"
STREAM = b"".join(
    [
        b"PING\r\n",
        b"MSG fn.hello 1 5\r\nhello\r\n",
        b"MSG fn.hello 1 _INBOX.a 0\r\n\r\n",
        b"HMSG fn.hello 1 %d %d\r\n%bevent\r\n" % (len(HEADERS), len(HEADERS) + 5, HEADERS),
        b"HMSG fn.hello 1 _INBOX.b %d %d\r\n%b\r\n" % (len(HEADERS), len(HEADERS), HEADERS),
        b"MSG not.ours 7 _INBOX.c 4\r\n\r\n\r\n\r\n",
        b"MSG fn.hello 1 13\r\nPING\r\nMSG a 1\r\n",
        b"-ERR 'Permissions Violation'\r\n",
    ]
)
CALLS: list[Call] = [
    (b"fn.hello", b"", None, b"hello"),
    (b"fn.hello", b"_INBOX.a", None, b""),
    (b"fn.hello", b"", HEADERS, b"event"),
    (b"fn.hello", b"_INBOX.b", HEADERS, b""),
    (b"fn.hello", b"", None, b"PING\r\nMSG a 1"),
]
OTHERS = [b"PING\r\n", b"MSG not.ours 7 _INBOX.c 4\r\n\r\n\r\n\r\n", b"-ERR 'Permissions Violation'\r\n"]


def parse(pieces: list[bytes]) -> tuple[list[Call], list[bytes]]:
    calls: list[Call] = []
    others: list[bytes] = []
    failures: list[Exception] = []
    callbacks = {b"1": lambda *call: calls.append(call)}
    parser = Parser(callbacks, others.append, lambda _subject, error: failures.append(error))
    for piece in pieces:
        parser.feed(piece)
    assert failures == []
    return calls, others


@settings(deadline=None)
@given(st.lists(st.integers(0, len(STREAM)), max_size=30))
def test_a_frame_in_pieces_is_the_same_frame(cuts: list[int]) -> None:
    """However the network cuts the stream, the same messages and the same other lines come out."""
    edges = [0, *sorted(cuts), len(STREAM)]
    pieces = [STREAM[start:end] for start, end in pairwise(edges)]
    assert parse([piece for piece in pieces if piece]) == (CALLS, OTHERS)


def test_a_failing_callback_does_not_swallow_the_messages_behind_it() -> None:
    """An exception is reported with its subject, and the next message of the same read is delivered."""
    seen: list[bytes] = []
    failed: list[tuple[bytes, str]] = []

    def fails(*_call: object) -> None:
        raise RuntimeError("bug")

    callbacks = {b"1": fails, b"2": lambda *call: seen.append(call[3])}
    parser = Parser(callbacks, lambda _line: None, lambda subject, error: failed.append((subject, str(error))))
    parser.feed(b"MSG a 1 1\r\nx\r\nMSG b 2 1\r\ny\r\n")
    assert failed == [(b"a", "bug")]
    assert seen == [b"y"]


def test_a_large_message_costs_time_in_proportion_to_its_size() -> None:
    """64 MB that arrive in reads of 4 KB are joined once: copying what is there at every read would take minutes."""
    size = 64 * 1024 * 1024
    piece = bytes(4096)
    pieces = [b"MSG fn.hello 1 %d\r\n" % size, *[piece] * (size // len(piece)), b"\r\n"]
    began = time.monotonic()
    calls, _ = parse(pieces)
    assert len(calls[0][3]) == size
    assert time.monotonic() - began < 5
