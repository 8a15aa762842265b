"""When a schedule is next due: by its own zone's clock, over both changes of daylight saving."""

import itertools
from datetime import UTC, datetime, timedelta

import pytest

from mayfly_registry import schedules


def due(schedule: str, zone: str, after: str, count: int = 3, since: str | None = None) -> list[str]:
    made = datetime.fromisoformat(since) if since else None
    return schedules.next_times(schedule, zone, datetime.fromisoformat(after), count, made)


def test_change_to_summer_time_moves_a_daily_schedule() -> None:
    """Half past eight is half past eight, in winter and in summer."""
    assert due("30 8 * * *", "Europe/Amsterdam", "2026-03-28T00:00:00Z") == [
        "2026-03-28T08:30:00+01:00",
        "2026-03-29T08:30:00+02:00",
        "2026-03-30T08:30:00+02:00",
    ]


def test_time_that_is_skipped_comes_at_another() -> None:
    """On the day that has no half past two there is no tick."""
    assert due("30 2 * * *", "Europe/Amsterdam", "2026-03-28T00:00:00Z", 2) == [
        "2026-03-28T02:30:00+01:00",
        "2026-03-30T02:30:00+02:00",
    ]


def test_time_that_comes_twice_is_due_once() -> None:
    """On the day that has half past two twice there are two ticks, an hour apart."""
    assert due("30 2 * * *", "Europe/Amsterdam", "2026-10-24T12:00:00Z") == [
        "2026-10-25T02:30:00+02:00",
        "2026-10-25T02:30:00+01:00",
        "2026-10-26T02:30:00+01:00",
    ]


@pytest.mark.parametrize("day", ["2026-03-29", "2026-10-25"])
def test_hourly_schedule_stumbles(day: str) -> None:
    """An hour is an hour, on the days of the change too."""
    times = [datetime.fromisoformat(time) for time in due("@hourly", "Europe/Amsterdam", f"{day}T00:00:00+01:00", 6)]
    assert {later - earlier for earlier, later in itertools.pairwise(times)} == {timedelta(hours=1)}


@pytest.mark.parametrize("word", schedules.WORDS)
def test_word_is_no_schedule(word: str) -> None:
    """Each word stands for five fields, and the server gets six."""
    schedules.check(word)
    assert len(schedules.for_server(word).split()) == 6


def test_interval_loses_its_phase() -> None:
    """It counts from when the schedule was made, to the second."""
    made = "2026-05-01T12:00:00.400000Z"
    assert due("@every 90s", "", "2026-05-01T12:02:00Z", 2, made) == [
        "2026-05-01T12:03:00+00:00",
        "2026-05-01T12:04:30+00:00",
    ]
    assert due("@every 90s", "", "2026-05-01T11:00:00Z", 1, made) == ["2026-05-01T12:01:30+00:00"]
    assert schedules.every("@every 1h30m5s") == timedelta(hours=1, minutes=30, seconds=5)


def test_offset_of_the_asker_shows() -> None:
    """Times are in the schedule's zone; without one, UTC."""
    after = datetime(2026, 5, 1, tzinfo=UTC)
    assert schedules.next_times("0 12 * * *", "Asia/Kolkata", after, 1) == ["2026-05-01T12:00:00+05:30"]
    assert schedules.next_times("0 12 * * *", "", after, 1) == ["2026-05-01T12:00:00+00:00"]
