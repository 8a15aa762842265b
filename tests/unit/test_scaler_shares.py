"""Who may have how much when there is not enough for all."""

from collections import Counter

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mayfly_scaler.functions.shares import Want, fair_mb, shares

wants = st.dictionaries(
    st.sampled_from("abcdefghijkl"),
    st.builds(
        Want,
        instances=st.integers(0, 200),
        memory_mb=st.sampled_from([64, 128, 256, 1024]),
        reserved=st.integers(0, 20),
        weight=st.sampled_from([0.5, 1.0, 2.0, 5.0]),
    ),
    max_size=12,
)
capacities = st.floats(1, 100_000)
CLOSE = 1e-6


@pytest.mark.invariant("P28")
@given(wants, capacities)
def test_all_there_is_goes_to_those_who_want_it(wanted: dict[str, Want], capacity_mb: float) -> None:
    """Together they get what there is, or all that they want; nobody gets more than that."""
    fair = fair_mb(wanted, capacity_mb)
    demand_mb = sum(want.demand_mb for want in wanted.values())
    assert sum(fair.values()) == pytest.approx(min(capacity_mb, demand_mb), rel=1e-6)
    assert all(-CLOSE <= fair[name] <= want.demand_mb + CLOSE for name, want in wanted.items())


@pytest.mark.invariant("P28")
@given(wants, capacities)
def test_what_is_reserved_is_met_first(wanted: dict[str, Want], capacity_mb: float) -> None:
    """Whoever has something reserved gets it whatever others want, unless more is reserved than there is."""
    fair = fair_mb(wanted, capacity_mb)
    reserved_mb = sum(want.floor_mb for want in wanted.values())
    share = min(1.0, capacity_mb / reserved_mb) if reserved_mb else 1.0
    assert all(fair[name] >= want.floor_mb * share - CLOSE for name, want in wanted.items())


@pytest.mark.invariant("P28")
@given(wants, capacities)
def test_nobody_who_wants_more_has_less_than_another(wanted: dict[str, Want], capacity_mb: float) -> None:
    """Above what is reserved, and by weight: more for one who is short would be taken from one who has no more."""
    fair = fair_mb(wanted, capacity_mb)
    poured = {name: (fair[name] - want.floor_mb) / want.weight for name, want in wanted.items()}
    short = [name for name, want in wanted.items() if fair[name] < want.demand_mb - CLOSE]
    assume(sum(want.floor_mb for want in wanted.values()) <= capacity_mb)
    for name in short:
        assert all(poured[other] <= poured[name] + CLOSE * capacity_mb for other in wanted)


@pytest.mark.invariant("P28")
@given(wants, capacities, st.integers(0, 100))
def test_instances_are_whole_and_fit(wanted: dict[str, Want], capacity_mb: float, turn: int) -> None:
    """Rounded to instances nobody loses one that was his, nobody has more than he wants, and all of them fit; what is
    left is less than anybody who is short could use."""
    fair, whole = fair_mb(wanted, capacity_mb), shares(wanted, capacity_mb, turn)
    used_mb = sum(whole[name] * want.memory_mb for name, want in wanted.items())
    assert used_mb <= capacity_mb + CLOSE
    for name, want in wanted.items():
        assert int(fair[name] / want.memory_mb) <= whole[name] <= want.instances
        if whole[name] < want.instances and whole[name] * want.memory_mb <= fair[name]:
            assert want.memory_mb > capacity_mb - used_mb - CLOSE


def test_a_small_function_keeps_its_place_beside_a_greedy_one() -> None:
    """One wants five times the cluster, the other two instances: it has them."""
    assert shares({"greedy": Want(80, 128), "small": Want(2, 128)}, 16 * 128) == {"greedy": 14, "small": 2}


def test_weights_and_floors_count() -> None:
    """Twice the weight, twice the share; what is reserved is on top of it."""
    wanted = {"one": Want(100, 128), "two": Want(100, 128, weight=2.0), "sure": Want(100, 128, reserved=10)}
    assert shares(wanted, 50 * 128) == {"one": 10, "two": 20, "sure": 20}


def test_more_functions_than_places_take_turns() -> None:
    """Where each would get a fraction of an instance, some have one, and soon others do."""
    wanted = {f"f{number}": Want(5, 128) for number in range(30)}
    had: Counter[str] = Counter()
    for turn in range(60):
        found = shares(wanted, 10 * 128, turn)
        assert sum(found.values()) == 10
        had.update({name: count for name, count in found.items() if count})
    assert had.keys() == wanted.keys()
    assert shares(wanted, 10 * 128, 7) == shares(wanted, 10 * 128, 7)
