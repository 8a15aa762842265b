"""How long an idle instance is worth its memory, and when one is started ahead."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mayfly_proto import gaps
from mayfly_scaler.functions.pauses import Pauses
from mayfly_scaler.functions.windows import (
    FORESEEABLE,
    GBS_PER_COLD_SECOND,
    KNOWN,
    LONGEST_S,
    SHORTEST_S,
    Price,
    Windows,
    gains,
    linger_s,
    windows,
)

lengths = st.lists(st.floats(0, 20_000), max_size=200)
prices = st.builds(Price, st.floats(0.002, 5), st.floats(0.005, 2))
NONE = Pauses()


def learnt(seconds: list[float]) -> Pauses:
    pauses = Pauses()
    for gap_s in seconds:
        pauses.add({gaps.bin_of(gap_s): 1})
    return pauses


@pytest.mark.invariant("P13")
@given(lengths, lengths, prices)
def test_windows_are_within_bounds(idle: list[float], further: list[float], price: Price) -> None:
    """Nothing is reclaimed at once, and nothing is kept for hours; who is started ahead is started after the rest has
    left, and not for ever."""
    found = windows(learnt(idle), learnt(further), price)
    for keep_s in (found.keep_alive_s, found.further_keep_alive_s):
        assert keep_s is None or SHORTEST_S <= keep_s <= LONGEST_S
    if found.pre_warm_at_s is not None:
        assert found.keep_alive_s is not None
        assert found.keep_alive_s < found.pre_warm_at_s
        assert found.pre_warm_for_s > 0
        assert found.pre_warm_at_s + found.pre_warm_for_s <= gaps.EDGES_S[-1] * 1.03


@pytest.mark.invariant("P13")
@given(lengths, prices, st.floats(1, 10), st.floats(1, 10))
def test_dear_cold_starts_are_waited_for_longer_and_large_instances_less(
    idle: list[float], price: Price, dearer: float, larger: float
) -> None:
    """The time to linger grows with the price of a cold start and falls with memory."""
    likely = learnt(idle).likely()
    usual = linger_s(gains(likely, price))
    assert linger_s(gains(likely, price._replace(cold_s=price.cold_s * dearer))) >= usual
    assert linger_s(gains(likely, price._replace(memory_gb=price.memory_gb * larger))) <= usual


@given(st.lists(st.sampled_from([0.5, 8, 29, 61, 121, 299, 599, 1201, 3601]), min_size=KNOWN, max_size=80), prices)
def test_no_other_time_to_linger_would_cost_less(idle: list[float], price: Price) -> None:
    """Memory while waiting and cold starts afterwards, over what is believed of pauses: the window is the cheapest."""
    likely, edges = learnt(idle).likely(), gaps.EDGES_S

    def cost(window_s: float) -> float:
        total = 0.0
        for index, chance in enumerate(likely):
            if edges[index] >= window_s:
                total += GBS_PER_COLD_SECOND * price.cold_s * chance
            else:
                wide_s = edges[index + 1] - edges[index]
                total += price.memory_gb * wide_s * (sum(likely[index + 1 :]) + chance / 2)
        return total

    allowed = [edge for edge in edges if SHORTEST_S <= edge <= LONGEST_S]
    found = linger_s(gains(likely, price))
    assert cost(found) <= min(map(cost, allowed)) + 1e-9


def test_little_is_known_at_first() -> None:
    """Three pauses are no habit: the version's own time holds, for the last instance and for the others."""
    few, enough = [10.0] * (KNOWN - 1), [10.0] * KNOWN
    price = Price(0.25, 0.125)
    assert windows(learnt(few), learnt(few), price) == Windows()
    assert windows(learnt(few), learnt(enough), price).keep_alive_s is None
    assert windows(learnt(enough), learnt(few), price).further_keep_alive_s is None
    assert windows(learnt(few), learnt(enough), price).further_keep_alive_s is not None


@pytest.mark.parametrize(
    ("every_s", "keep_s", "at_s"),
    [(60, 62, None), (300, SHORTEST_S, 294), (3600, SHORTEST_S, 3544)],
)
def test_timers_are_met(every_s: float, keep_s: float, at_s: float | None) -> None:
    """A function that is called each minute stays; one that is called each five minutes or each hour is there when the
    call comes, and nowhere in between."""
    found = windows(learnt([every_s] * 60), NONE, Price(0.25, 0.125))
    assert found.keep_alive_s == pytest.approx(keep_s, abs=2)
    assert found.pre_warm_at_s == (None if at_s is None else pytest.approx(at_s, abs=2))
    if found.pre_warm_at_s is not None:
        assert found.pre_warm_at_s < every_s < found.pre_warm_at_s + found.pre_warm_for_s


@pytest.mark.parametrize(("mean_s", "keep_s"), [(30, 145), (600, 5)])
def test_calls_at_random_are_waited_for_as_long_as_it_pays(mean_s: float, keep_s: float) -> None:
    """Often enough: almost always there. Every ten minutes at random: not worth its memory."""
    rng = random.Random(1)
    found = windows(learnt([rng.expovariate(1 / mean_s) for _ in range(600)]), NONE, Price(0.25, 0.125))
    assert found.keep_alive_s == pytest.approx(keep_s, rel=0.35)
    assert found.pre_warm_at_s is None


def test_a_fork_is_not_waited_for() -> None:
    """Where a cold start takes five milliseconds, memory is worth more."""
    assert windows(learnt([60] * 60), NONE, Price(0.005, 0.020)).keep_alive_s == SHORTEST_S


def test_nothing_is_started_ahead_where_the_function_does_not_want_it() -> None:
    """`pre_warm = false`, or too little known for a forecast."""
    price = Price(0.25, 0.125)
    assert windows(learnt([300] * 60), NONE, price, pre_warm=False).pre_warm_at_s is None
    assert windows(learnt([300] * (FORESEEABLE - 1)), NONE, price).pre_warm_at_s is None


def test_what_is_not_likely_is_not_started_for() -> None:
    """One call in ten comes an hour later: nine instances would be started for nobody."""
    assert windows(learnt(([2.0] * 9 + [3600.0]) * 20), NONE, Price(0.25, 0.125)).pre_warm_at_s is None


def test_a_run_that_begins_at_once_is_lingered_for() -> None:
    """Where it would be stopped only to be started again a moment later, it stays, as long as anything may."""
    found = windows(learnt([560.0] * 40 + [600.0] * 40), NONE, Price(0.25, 0.020))
    assert found.pre_warm_at_s is None
    assert found.keep_alive_s == LONGEST_S
