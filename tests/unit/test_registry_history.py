"""A function's record through deploys and rollbacks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mayfly_proto.records import FunctionRecord
from mayfly_registry import history
from mayfly_registry.errors import NotFound


def after(*versions: int, keep: int = 50) -> FunctionRecord:
    record = None
    for version in versions:
        record = history.published(record, "f", version, keep)
    assert record is not None
    return record


def test_slow_deploy_replaces_a_newer_one() -> None:
    """Two deploys at once: the higher number is current, whichever comes last."""
    assert after(2, 1) == FunctionRecord(name="f", current=2, versions=[1, 2])


def test_more_than_ten_can_be_called() -> None:
    """The ten newest can be called; the rest can be rolled back to."""
    record = after(*range(1, 13))
    assert (record.versions, record.older) == (list(range(3, 13)), [1, 2])


def test_rollback_target_cannot_be_called() -> None:
    """Rolled back to an old version, it is current and callable beside the ten newest."""
    record = history.rolled_back(after(*range(1, 13)), 1)
    assert (record.current, record.versions, record.older) == (1, [1, *range(3, 13)], [2])


def test_old_version_stays_callable_when_it_is_left_again() -> None:
    """A deploy after a rollback is current, and the old version returns to where it was."""
    record = history.published(history.rolled_back(after(*range(1, 13)), 1), "f", 13, 50)
    assert (record.current, record.versions, record.older) == (13, list(range(4, 14)), [1, 2, 3])


def test_rollback_without_a_number_goes_forward() -> None:
    """Without a number, rollback goes to the highest version below the current one."""
    record = after(1, 2, 5)
    assert history.before(record) == 2
    assert history.before(history.rolled_back(record, 2)) == 1
    with pytest.raises(NotFound, match="no version before 1"):
        history.before(history.rolled_back(record, 1))


def test_rollback_to_what_is_gone() -> None:
    """A version that the record does not name cannot be rolled back to; the message lists what can."""
    with pytest.raises(NotFound, match=r"function f has no version 9: it has 1, 2"):
        history.rolled_back(after(1, 2), 9)


@given(
    st.lists(st.tuples(st.sampled_from(["deploy", "late", "rollback"]), st.integers(0, 60)), max_size=60),
    st.integers(11, 20),
)
def test_history_loses_what_it_must_keep(moves: list[tuple[str, int]], keep: int) -> None:
    """Whatever happens: current is callable, at most eleven are, nothing is named twice, at most ``keep`` stay."""
    record = history.published(None, "f", 1, keep)
    number = 1
    for move, choice in moves:
        if move == "rollback":
            named = history.everything(record)
            record = history.rolled_back(record, named[choice % len(named)])
        else:
            number += 2
            record = history.published(record, "f", number - (move == "late"), keep)
            number += move == "late"
        assert record.current in record.versions
        assert len(record.versions) <= history.CALLABLE + 1
        assert set(history.everything(record)[-history.CALLABLE :]) <= set(record.versions)
        assert sorted(record.versions + record.older) == history.everything(record)
        assert len(history.everything(record)) <= keep
