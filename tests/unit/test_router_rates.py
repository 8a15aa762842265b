"""Limits on calls per second: exact, fair among callers, and no burden when nobody calls."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mayfly_proto import headers
from mayfly_proto.records import Package, VersionSpec
from mayfly_router import rates
from mayfly_router.rates import MOST_CALLERS, Rates

PER_S = st.sampled_from((0.1, 0.5, 1.0, 2.5, 10.0, 1000.0))
PAUSES_S = st.lists(st.floats(0, 3, allow_subnormal=False), max_size=120)


def spec(**fields: Any) -> VersionSpec:
    package = Package(sha256="0", size=1, format="py", filename="f.py")
    return VersionSpec(name="f", version=1, runtime="python", handler="f:f", package=package, created="", **fields)


class Bucket:
    """A token bucket as the books have it."""

    def __init__(self, per_s: float) -> None:
        self.per_s = per_s
        self.most = self.tokens = max(1.0, per_s)
        self.at = 0.0

    def look(self, now: float) -> float:
        self.tokens = min(self.most, self.tokens + (now - self.at) * self.per_s)
        self.at = now
        return self.tokens


@given(PER_S, PAUSES_S)
def test_it_is_a_token_bucket_of_one_seconds_worth(per_s: float, pauses_s: list[float]) -> None:
    """Each call is let through if, and only if, a bucket of max(1, rate) tokens has one; else the wait is said."""
    limit, bucket, now = Rates(per_s, 0), Bucket(per_s), 1000.0
    bucket.at = now
    for pause_s in pauses_s:
        now += pause_s / per_s
        tokens = bucket.look(now)
        wait_s = limit.take(b"", now)
        if abs(tokens - 1) < 1e-6:  # a rounding error decides
            if not wait_s:
                bucket.tokens = max(0.0, tokens - 1)
        elif tokens > 1:
            assert wait_s == 0
            bucket.tokens -= 1
        else:
            assert wait_s == pytest.approx((1 - tokens) / per_s, rel=1e-3, abs=1e-6 / per_s)


@given(PER_S, PAUSES_S, st.floats(0.01, 50))
def test_no_stretch_of_time_has_more_than_its_share(per_s: float, pauses_s: list[float], length_s: float) -> None:
    """Within any T seconds at most one second's worth and T seconds' worth of calls are let through."""
    limit, now, through = Rates(per_s, 0), 1000.0, []
    for pause_s in pauses_s:
        now += pause_s / per_s
        if not limit.take(b"", now):
            through.append(now)
    for first in range(len(through)):
        within = sum(through[first] <= at <= through[first] + length_s for at in through)
        assert within <= max(1.0, per_s) + per_s * length_s + 1e-3


@given(PER_S, st.integers(0, 50))
def test_who_waits_as_long_as_told_gets_in(per_s: float, calls: int) -> None:
    """`Retry-After` is true: after that time, and not before, the same call is let through."""
    limit, now = Rates(per_s, 0), 1000.0
    for _ in range(calls):
        limit.take(b"", now)
    while not (wait_s := limit.take(b"", now)):
        pass
    assert limit.take(b"", now + wait_s * 0.99) > 0
    assert limit.take(b"", now + wait_s * 1.001) == 0


def test_one_caller_does_not_use_up_anothers_calls() -> None:
    """Each caller has a limit of its own, and a call that it stops does not count for the function's."""
    limit = Rates(per_s=10, caller_per_s=2)
    assert [bool(limit.take(b"greedy", 5.0)) for _ in range(6)] == [False, False, True, True, True, True]
    assert [bool(limit.take(b"modest", 5.0)) for _ in range(2)] == [False, False]
    others = [bool(limit.take(b"%d" % n, 5.0)) for n in range(10)]
    assert others == [False] * 6 + [True] * 4, "ten a second in all"


def test_a_call_stopped_by_the_functions_limit_does_not_count_for_its_caller() -> None:
    """Who was refused because of others has all of his own calls left."""
    limit = Rates(per_s=1, caller_per_s=1)
    assert limit.take(b"a", 0.0) == 0
    assert limit.take(b"b", 0.0) == pytest.approx(1.0)
    assert limit.take(b"b", 1.001) == 0


@given(st.lists(st.tuples(st.integers(0, 5), st.floats(0, 1.5)), max_size=150), PER_S)
def test_forgetting_lets_nobody_through(calls: list[tuple[int, float]], per_s: float) -> None:
    """A caller is forgotten only when that changes nothing: each is treated as if it were the only one."""
    together, alone, now = Rates(0, per_s), {n: Rates(per_s, 0) for n in range(6)}, 1000.0
    for caller, pause_s in calls:
        now += pause_s / per_s
        assert together.take(b"%d" % caller, now) == alone[caller].take(b"", now)


def test_who_has_not_called_for_a_while_is_forgotten() -> None:
    """After the time in which a bucket fills up nothing is left of a thousand callers."""
    limit = Rates(0, 0.5)
    for n in range(1000):
        limit.take(b"%d" % n, n / 1000)
    assert limit.callers == 1000
    limit.forget(2.5)
    assert 0 < limit.callers < 1000
    limit.forget(3.1)
    assert limit.callers == 0


def test_callers_that_are_remembered_are_bounded() -> None:
    """A flood of names costs no more memory than so much; those who called last are remembered."""
    limit = Rates(0, 1)
    for n in range(MOST_CALLERS + 500):
        assert limit.take(b"%d" % n, 7.0) == 0
    assert limit.callers == MOST_CALLERS
    assert limit.take(b"%d" % (MOST_CALLERS + 499), 7.0) > 0
    assert limit.take(b"0", 7.0) == 0


def test_a_new_version_with_the_same_limits_does_not_refill_them() -> None:
    """A deploy gives no calls away; other limits, or none, count at once."""
    limit = rates.renewed(None, spec(rate_limit=5.0))
    assert limit is not None
    assert rates.renewed(limit, spec(rate_limit=5.0, memory_mb=256)) is limit
    assert rates.renewed(limit, spec(rate_limit=5.0, caller_rate_limit=1.0)) is not limit
    assert rates.renewed(limit, spec()) is None


def test_a_caller_is_a_connection_or_who_the_gateway_says() -> None:
    """The header counts only with the gateway's inbox: who writes it himself stays who he is."""
    said = headers.block({headers.CALLER: "203.0.113.7"})
    assert rates.caller(b"_INBOX_gateway.abc.1", said) == b"203.0.113.7"
    assert rates.caller(b"_INBOX.abc.1", said) == rates.caller(b"_INBOX.abc.2", None) == b"_INBOX.abc"
    assert rates.caller(b"_INBOX_gatewayx.abc.1", said) == b"_INBOX_gatewayx.abc"
    assert rates.caller(b"_INBOX_gateway.abc.1", None) == b"_INBOX_gateway.abc"
    assert rates.caller(b"_INBOX_gateway.abc.1", headers.block({headers.CALLER: ""})) == b"_INBOX_gateway.abc"
    assert len(rates.caller(b"_INBOX." + b"x" * 5000, None)) == rates.LONGEST_NAME
