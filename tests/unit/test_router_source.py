"""How much a router asks of a consumer."""

import pytest

from mayfly_proto import storage
from mayfly_router.durable.delivery import Delivery
from mayfly_router.durable.source import SMALLEST_WINDOW, Source


@pytest.fixture
def source() -> Source:
    return Source("hello", storage.EVENTS, "hello_1")


def hold(source: Source, count: int) -> None:
    for sequence in range(1, count + 1):
        source.held[sequence] = Delivery(source, "", 0, sequence, 0.0)


def test_new_events_leave_room_for_those_before_them(source: Source) -> None:
    """In an order, a window full of what is early does not keep away what must come first: that is asked for beyond it,
    exactly so much, and nothing new meanwhile."""
    hold(source, SMALLEST_WINDOW)
    source.early = dict(source.held)
    assert source.missing(SMALLEST_WINDOW) == 0
    source.owed = 5
    assert source.missing(SMALLEST_WINDOW) == 5
    source.asked = 5
    assert source.missing(SMALLEST_WINDOW) == 0
    for _ in range(5):
        source.received()
    assert (source.asked, source.owed, source.missing(SMALLEST_WINDOW)) == (0, 0, 0)


def test_a_window_is_filled_and_not_exceeded(source: Source) -> None:
    """What is here and what is asked for count alike."""
    assert source.missing(SMALLEST_WINDOW) == SMALLEST_WINDOW
    hold(source, 4)
    source.asked = SMALLEST_WINDOW - 4
    assert source.missing(SMALLEST_WINDOW) == 0
