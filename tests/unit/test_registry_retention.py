"""Which events may go: never one that somebody still needs."""

from dataclasses import replace
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from mayfly_registry.consumers import Info
from mayfly_registry.retention import Kept, purge_below

IDLE = Info(
    stream="EVENTS",
    name="c",
    function="f",
    filter_subject="event.>",
    created=datetime(2026, 1, 1, tzinfo=UTC),
    paused=False,
    pending=0,
    unacknowledged=0,
    acknowledged_to=0,
)
KEPT = Kept(first_sequence=1, last_sequence=100, size=10, size_limit=100)


def test_rare_consumer_holds_everything_back() -> None:
    """One that wants nothing of what there is holds nothing back, however old its last event."""
    assert purge_below(KEPT, [IDLE], None) == 101


def test_waiting_event_is_removed() -> None:
    """What has not been delivered, or not been acknowledged, stays, and all that came after it."""
    assert purge_below(KEPT, [IDLE, replace(IDLE, pending=1, acknowledged_to=60)], None) == 61
    assert purge_below(KEPT, [replace(IDLE, unacknowledged=1, acknowledged_to=60)], None) == 61
    assert purge_below(KEPT, [replace(IDLE, pending=1)], None) is None


def test_window_yields_too_early() -> None:
    """Up to half of the stream's size young events stay; above it they go when everybody is done with them."""
    assert purge_below(replace(KEPT, size=50), [], 40) == 40
    assert purge_below(replace(KEPT, size=51), [], 40) == 101
    assert purge_below(replace(KEPT, size=10**9, size_limit=-1), [], 40) == 40
    assert purge_below(replace(KEPT, size=51), [replace(IDLE, pending=1, acknowledged_to=20)], 40) == 21


@st.composite
def streams(draw: st.DrawFn) -> tuple[Kept, dict[int, set[int]], list[Info], int | None]:
    """A stream, what each consumer still needs, how the server tells it, and where the window starts."""
    first, last = draw(st.integers(1, 20)), draw(st.integers(20, 40))
    needs, infos = {}, []
    for number in range(draw(st.integers(0, 4))):
        wanted = draw(st.sets(st.integers(first, last)))
        acknowledged = draw(st.sets(st.sampled_from(sorted(wanted)))) if wanted else set()
        open_ = wanted - acknowledged
        floor = max((s for s in wanted if all(other > s for other in open_)), default=draw(st.integers(0, first - 1)))
        delivered = draw(st.integers(0, len(open_)))
        needs[number] = open_
        infos.append(replace(IDLE, pending=len(open_) - delivered, unacknowledged=delivered, acknowledged_to=floor))
    kept = Kept(first_sequence=first, last_sequence=last, size=draw(st.integers(0, 100)), size_limit=100)
    return kept, needs, infos, draw(st.none() | st.integers(first, last + 5))


@given(streams())
def test_needed_event_is_removed(case: tuple[Kept, dict[int, set[int]], list[Info], int | None]) -> None:
    """Whatever is acknowledged in whatever order: nothing goes that a consumer needs or that came after the look."""
    kept, needs, infos, window = case
    below = purge_below(kept, infos, window)
    if below is not None:
        assert kept.first_sequence < below <= kept.last_sequence + 1
        assert all(sequence >= below for wanted in needs.values() for sequence in wanted)
        assert window is None or below <= window or kept.size > 50
    elif not any(needs.values()) and window is None:
        raise AssertionError("everybody is done, and nothing went")
