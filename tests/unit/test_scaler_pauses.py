"""What is learnt of pauses: new ones count more, nothing is lost when it is kept, and likelihoods are such."""

import math
from itertools import repeat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mayfly_proto import gaps
from mayfly_scaler.functions.pauses import BINS, HALF_LIFE, PRIOR, Pauses

counts = st.dictionaries(st.integers(0, BINS - 1), st.integers(0, 5_000), max_size=6)
reports = st.lists(counts, max_size=8)


def learnt(*reported: dict[int, int]) -> Pauses:
    pauses = Pauses()
    for report in reported:
        pauses.add(report)
    return pauses


@given(reports)
def test_likelihoods_are_likelihoods(reported: list[dict[int, int]]) -> None:
    """Whatever was reported, each bin is possible but the first second, and together they are certain."""
    likely = learnt(*reported).likely()
    assert math.isclose(sum(likely), 1.0)
    assert all(part > 0 for part in likely[1:])
    assert all(math.isfinite(part) for part in likely)


def test_nothing_known_is_log_uniform() -> None:
    """Without a pause, a minute to two is as likely as an hour to two."""
    edges = gaps.EDGES_S

    def between(low: float, high: float) -> float:
        return sum(PRIOR[edges.index(low) : edges.index(high)])

    assert Pauses().likely() == pytest.approx(PRIOR)
    assert between(100, 200 - 10) == pytest.approx(math.log(1.9) / (math.log(14400) + 1))


def test_a_pause_counts_half_after_so_many_newer_ones() -> None:
    """A function whose habit changes is known by the new one after a few hundred calls."""
    old, new = gaps.bin_of(300), gaps.bin_of(2)
    pauses = learnt({old: 1}, *repeat({new: 1}, HALF_LIFE))
    kept = pauses.kept()
    assert kept[gaps.key(old)] == pytest.approx(0.5, abs=1e-3)
    assert pauses.count == HALF_LIFE + 1


@given(st.lists(st.integers(0, BINS - 1), min_size=1, max_size=400))
def test_a_report_of_many_weighs_as_much_as_each_by_itself(bins: list[int]) -> None:
    """How many pauses fall into one report says nothing about them: only their order within it is lost."""
    one_by_one = learnt(*({index: 1} for index in bins))
    together = learnt({index: bins.count(index) for index in set(bins)})
    assert sum(together.kept().values()) == pytest.approx(sum(one_by_one.kept().values()), rel=0.02)
    assert together.count == one_by_one.count


def test_a_million_pauses_at_once_are_no_overflow() -> None:
    """A busy function's reports are large, for as long as it lives."""
    pauses = learnt(*repeat({0: 1_000_000, 3: 1}, 50))
    assert all(map(math.isfinite, pauses.likely()))
    assert pauses.likely()[0] > 0.9


@given(reports, counts)
def test_what_was_kept_goes_on_as_if_nothing_had_happened(reported: list[dict[int, int]], more: dict[int, int]) -> None:
    """A scaler that starts from KV knows what its predecessor knew, to what is worth keeping."""
    pauses = learnt(*reported)
    restored = Pauses.restored(pauses.kept(), pauses.count)
    for each in (pauses, restored):
        each.add(more)
    assert restored.count == pauses.count
    assert restored.likely() == pytest.approx(pauses.likely(), abs=2e-3)


def test_what_is_kept_is_small() -> None:
    """Ten thousand functions' memory is a few megabytes in KV."""
    pauses = learnt(dict.fromkeys(range(BINS), 100))
    assert len(str(pauses.kept())) < 1500
    assert learnt({5: 1}, *repeat({9: 1}, 20 * HALF_LIFE)).kept().keys() == {gaps.key(9)}


def test_bins_that_are_none_are_refused() -> None:
    """Another version's bins are no weights of ours."""
    with pytest.raises(ValueError, match="not in tuple"):
        Pauses.restored({"61": 1.0}, 1)
