"""How many instances are to be ready: what is busy and a little more, what is provisioned, what figures ask for."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mayfly_proto.records import Provisioned
from mayfly_scaler.functions import minimum, scale_on
from mayfly_scaler.functions.minimum import Proposal
from mayfly_scaler.functions.provisioned import NEVER, standing
from mayfly_scaler.functions.scale_on import Measured, by_instance, by_total
from mayfly_scaler.peak import Peak

busy = st.floats(0, 500)


@given(busy, busy, st.integers(1, 20), st.floats(0, 2))
def test_a_floor_covers_what_is_busy_and_not_much_more(
    low: float, high: float, concurrency: int, cold_s: float
) -> None:
    """It grows with load, and is nothing where a cold start is not noticed or hardly anything runs."""
    floor = minimum.floor(high, concurrency, cold_s)
    if cold_s <= minimum.SLOW_COLD_S or high <= minimum.BUSY_FROM:
        assert floor == 0
    else:
        assert high <= floor * concurrency < high + high**0.5 + concurrency + 1e-6
    assert minimum.floor(min(low, high), concurrency, cold_s) <= minimum.floor(max(low, high), concurrency, cold_s)


@given(busy, busy, st.floats(0, 100))
def test_an_average_is_between_what_was_and_what_is(before: float, now: float, elapsed_s: float) -> None:
    """And after six seconds nearly two thirds of the way."""
    found = minimum.average(before, now, elapsed_s)
    assert min(before, now) - 1e-9 <= found <= max(before, now) + 1e-9
    assert minimum.average(0.0, 100.0, minimum.AVERAGE_S) == pytest.approx(63.2, abs=0.1)


def test_the_largest_proposal_counts_up_to_what_is_allowed() -> None:
    """Several reasons do not add up, and none of them is above `max_instances`."""
    assert minimum.largest([Proposal(3, "a"), Proposal(5, "b")], 10) == Proposal(5, "b")
    assert minimum.largest([Proposal(30, "a"), Proposal(5, "b")], 10).instances == 10
    assert minimum.largest([], 10) == minimum.NOTHING
    assert minimum.largest([Proposal(0, "a")], 10) == minimum.NOTHING


@given(st.lists(st.tuples(st.floats(0, 5), st.integers(0, 9)), max_size=60), st.floats(0.5, 20))
def test_a_peak_is_the_largest_of_its_window(steps: list[tuple[float, int]], window_s: float) -> None:
    """Against the plain definition, at every step."""
    peak, now, seen = Peak(window_s), 0.0, []
    for later_s, value in steps:
        now += later_s
        seen.append((now, value))
        expected = max(each for at, each in seen if at >= now - window_s)
        assert peak.add(value, now) == expected
    assert peak.value(now + window_s + 0.1) == 0


# the rules of the Kubernetes HPA


def test_shared_figures_are_divided_among_instances() -> None:
    """120 jobs at 10 for each instance are 12 instances, from none as from any number."""
    assert by_total(120, 0, 10) == 12
    assert by_total(121, 5, 10) == 13
    assert by_total(0, 5, 10) == 0


@pytest.mark.parametrize("total", [91, 100, 109])
def test_near_the_target_nothing_is_changed(total: float) -> None:
    """Within a tenth: else every small wave would start or stop something."""
    assert by_total(total, 10, 10) == 10
    assert by_instance(Measured(total, 10), 10, 10) == 10


@pytest.mark.parametrize(
    ("total", "measured", "ready", "expected"),
    [
        (900.0, 10, 10, 18),  # 90 % each, at 50 %
        (100.0, 10, 10, 2),
        (720.0, 8, 10, 15),  # two not measured: taken for idle when it grows
        (500.0, 8, 10, 10),  # and then it would not grow
        (80.0, 8, 10, 4),  # taken for busy when it shrinks
        (0.0, 1, 10, 10),
    ],
)
def test_instances_that_were_not_measured_are_no_reason(total: float, measured: int, ready: int, expected: int) -> None:
    """They count against the change, whichever way it goes."""
    assert by_instance(Measured(total, measured), ready, 50) == expected


def test_without_a_measurement_there_is_no_proposal() -> None:
    """Unlike a measurement of nothing."""
    assert by_instance(Measured(0.0, 0), 3, 50) is None
    assert by_instance(Measured(0.0, 3), 3, 50) == 0


@given(st.floats(0, 1e5), st.integers(0, 200), st.integers(1, 200), st.floats(1, 1000))
def test_missing_measurements_never_turn_a_change_around(
    total: float, measured: int, ready: int, target: float
) -> None:
    """What the measured ones say is the most that happens, in their direction."""
    wanted = by_instance(Measured(total, min(measured, ready)), ready, target)
    if wanted is not None and measured:
        ratio = total / min(measured, ready) / target
        assert (wanted - ready) * (ratio - 1) >= 0
        assert wanted <= max(ready, ratio * ready + 1)


def test_a_figure_that_falls_is_followed_after_five_minutes() -> None:
    """The largest proposal of the window stands: what comes back within it finds its instances."""
    peak = Peak(scale_on.STABLE_S)
    peak.add(20, 0.0)
    assert peak.add(2, 299.0) == 20
    assert peak.add(2, 301.0) == 2


@given(st.floats(allow_nan=False, allow_infinity=False), st.integers(1, 9), st.integers(0, 9), st.floats(0.001, 1e9))
@example(1e308, 1, 1, 0.001)
def test_no_figure_is_too_large(total: float, measured: int, ready: int, target: float) -> None:
    """Anybody may publish any number, and a function's target may be small: a proposal is a number of instances."""
    assert 0 <= by_total(total, ready, target) <= 1_000_000
    assert 0 <= (by_instance(Measured(total, measured), ready, target) or 0) <= 1_000_000


# provisioned instances

OFFICE = Provisioned(start="0 8 * * MON-FRI", end="30 17 * * MON-FRI", instances=5)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("now", "instances"),
    [
        ("2026-01-05T07:59:59", 0),  # Monday
        ("2026-01-05T08:00:00", 5),
        ("2026-01-05T17:29:59", 5),
        ("2026-01-05T17:30:00", 0),
        ("2026-01-10T12:00:00", 0),  # Saturday
    ],
)
def test_provisioned_from_start_to_end(now: str, instances: int) -> None:
    """To the second, and on the days that are meant."""
    found = standing([OFFICE], at(now))
    assert found.instances == instances
    assert found.holds(at(now))


def test_a_zone_is_the_users() -> None:
    """Eight o'clock in Berlin is seven in UTC in winter and six in summer."""
    berlin = Provisioned(start="0 8 * * *", end="0 9 * * *", instances=2, timezone="Europe/Berlin")
    assert standing([berlin], at("2026-01-05T07:30:00")).instances == 2
    assert standing([berlin], at("2026-07-06T06:30:00")).instances == 2
    assert standing([berlin], at("2026-07-06T07:30:00")).instances == 0


def test_words_are_schedules_too() -> None:
    """All that a manifest takes: from midnight until noon."""
    morning = Provisioned(start="@daily", end="0 12 * * *", instances=2)
    assert standing([morning], at("2026-01-05T11:59:59")).instances == 2
    assert standing([morning], at("2026-01-05T12:00:00")).instances == 0


def test_a_start_that_the_change_of_the_clock_skips_is_made_up_for() -> None:
    """Half past two does not come on that Sunday in March in Berlin; three does."""
    night = Provisioned(start="30 2 * * *", end="0 6 * * *", instances=2, timezone="Europe/Berlin")
    assert standing([night], at("2026-03-29T00:59:00")).instances == 0
    assert standing([night], at("2026-03-29T01:30:00")).instances == 2


def test_windows_that_overlap_do_not_add_up() -> None:
    """The largest stands."""
    night = Provisioned(start="0 0 * * *", end="0 23 * * *", instances=3)
    assert standing([OFFICE, night], at("2026-01-05T12:00:00")).instances == 5
    assert standing([OFFICE, night], at("2026-01-10T12:00:00")).instances == 3
    assert standing([], at("2026-01-10T12:00:00")).until == NEVER


@given(st.datetimes(datetime(2026, 1, 1), datetime(2026, 12, 31)))
def test_what_stands_is_looked_at_again_when_it_may_change(moment: datetime) -> None:
    """Until then it is the same, a second later it may be another; and when the clock is put back it is looked at."""
    now = moment.replace(tzinfo=UTC)
    found = standing([OFFICE], now)
    last = found.until - timedelta(seconds=1)
    if last >= now:
        assert standing([OFFICE], last).instances == found.instances
    assert not found.holds(found.until)
    assert not found.holds(now - timedelta(seconds=1))
