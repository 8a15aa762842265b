"""The scaler's and the router's own decisions against calls that really were: bench/replay, shortened."""

import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mayfly_proto.records import Package, VersionSpec
from mayfly_scaler.functions.windows import SHORTEST_S
from replay import trace
from replay.keeping import Fixed, Scaled
from replay.pool import Pool
from replay.run import PLAIN, SCALER, outcome

MINUTES = 60
SPEC = VersionSpec(
    name="hello",
    version=1,
    runtime="python",
    handler="hello:handler",
    package=Package(sha256="", size=0, format="py", filename="hello.py"),
    created="",
)
MEMORY_MB = 128


def every(period_s: float, end_s: float, duration_s: float = 0.1) -> Iterator[tuple[float, float]]:
    return ((number * period_s, duration_s) for number in range(1, int(end_s / period_s) + 1))


def poisson(mean_s: float, end_s: float, rng: random.Random) -> Iterator[tuple[float, float]]:
    moment = rng.expovariate(1 / mean_s)
    while moment < end_s:
        yield moment, 0.05
        moment += rng.expovariate(1 / mean_s)


def scaled() -> Scaled:
    return Scaled(SPEC, MEMORY_MB)


def pool(keeping: Fixed | Scaled) -> Pool:
    return Pool(SPEC, keeping, PLAIN.cold_s, MEMORY_MB)


@pytest.mark.timeout(180)
def test_fewer_cold_starts_and_less_idle_memory_than_two_fixed_minutes() -> None:
    """Both at once, on 499 functions for an hour (`make bench PARTS=scale-trace` takes all of them and eight hours)."""
    functions = trace.read()[1:]
    fixed = outcome(functions, MINUTES, PLAIN, 120.0)
    learnt = outcome(functions, MINUTES, PLAIN, SCALER)
    assert learnt.calls == fixed.calls > 100_000
    assert learnt.cold < 0.8 * fixed.cold
    assert learnt.wait_s < fixed.wait_s
    assert learnt.idle_gbs < 0.98 * fixed.idle_gbs


def test_the_trace_is_the_data_sets() -> None:
    """Nothing was lost on the way into the file."""
    functions = trace.read()
    assert len(functions) == 500
    assert sum(sum(function.per_minute) for function in functions) == 3_037_902
    assert {len(function.per_minute) for function in functions} == {480}
    quiet = functions[250]
    assert sum(1 for _ in quiet.calls(480)) <= sum(quiet.per_minute)
    assert list(quiet.calls(480)) == list(quiet.calls(480))


def test_a_fixed_time_costs_what_it_should() -> None:
    """The simulator against a sum on paper: ten calls five minutes apart, kept for a minute each."""
    played = pool(Fixed(60.0)).play(every(300, 3000), 4000.0)
    assert (played.calls, played.cold, played.waited) == (10, 10, 10)
    assert played.wait_s == pytest.approx(10 * PLAIN.cold_s)
    assert played.idle_gbs == pytest.approx(10 * 60 * MEMORY_MB / 1024)
    assert played.busy_gbs == pytest.approx(10 * 0.1 * MEMORY_MB / 1024)
    kept = pool(Fixed(600.0)).play(every(300, 3000), 4000.0)
    assert kept.cold == 1


def test_a_timer_is_met_after_a_few_calls() -> None:
    """Every five minutes: half a dozen cold starts, then an instance that is there for seconds when the call comes."""
    played = pool(scaled()).play(every(300, 8 * 3600), 8 * 3600.0)
    assert played.calls == 96
    assert played.cold < 12
    assert played.pre_warmed > 80
    assert played.idle_gbs < 0.5 * pool(Fixed(120.0)).play(every(300, 8 * 3600), 8 * 3600.0).idle_gbs


@pytest.mark.invariant("S14")
@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([2.0, 20.0, 60.0, 300.0, 1000.0]), st.floats(1, 6))
def test_it_goes_to_zero_and_stays_there(seed: int, mean_s: float, hours: float) -> None:
    """With no more calls, after its window and at most one start ahead of a call that does not come, nothing is left,
    and nothing wakes by itself."""
    keeping = scaled()
    played = pool(keeping)
    calls = list(poisson(mean_s, hours * 3600, random.Random(seed)))
    end_s = (calls[-1][0] if calls else 0.0) + 1
    played.advance(calls, end_s)
    started = played.outcome.started
    target = keeping.target
    window_s = max(target.keep_alive_s or 90.0, target.further_keep_alive_s or 90.0)
    ahead_s = (target.pre_warm_at_s or 0.0) + target.pre_warm_for_s
    played.advance([], end_s + window_s + ahead_s + window_s + 60)
    assert not played.instances
    assert played.outcome.started - started <= 1
    started = played.outcome.started
    played.advance([], end_s + 48 * 3600)
    assert not played.instances
    assert played.outcome.started == started


@pytest.mark.invariant("S15")
@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([1.0, 5.0, 30.0, 120.0, 600.0]))
def test_steady_calls_do_not_make_it_thrash(seed: int, mean_s: float) -> None:
    """Calls at random, at a constant rate: no instance leaves before it has been idle for a window, so each window of
    idle time has one reclaim at most, and there are only as many starts as that leaves room for."""
    played, end_s = pool(scaled()), 4 * 3600.0
    result = played.play(poisson(mean_s, end_s, random.Random(seed)), end_s)
    idle_s = result.idle_gbs / (MEMORY_MB / 1024)
    assert result.reclaimed * SHORTEST_S <= idle_s + 1e-6
    assert result.cold <= result.waited <= result.calls
    assert result.started == result.reclaimed + played.instances
    if mean_s <= 5:  # often enough that the next call is always worth waiting for
        assert result.cold <= 0.02 * result.calls + 10
