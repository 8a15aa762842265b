"""What is promised to functions for good: never more than the platform can keep, and no version is kept by that."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mayfly_proto.records import Package, Provisioned, VersionSpec
from mayfly_registry import capacity

PACKAGE = Package(sha256="", size=0, format="py", filename="a.py")

floors = st.integers(0, 20)


def spec(name: str = "hello", memory: int = 100, reserved: int = 0, minimum: int = 0, *windows: int) -> VersionSpec:
    provisioned = [Provisioned(start="0 8 * * *", end="0 9 * * *", instances=each) for each in windows]
    return VersionSpec(
        name=name,
        version=1,
        runtime="python",
        handler="a:b",
        package=PACKAGE,
        created="",
        memory_mb=memory,
        reserved=reserved,
        min_instances=minimum,
        provisioned=provisioned,
    )


specs = st.builds(spec, st.just("other"), st.integers(16, 512), floors, floors, floors)


@pytest.mark.parametrize(
    ("floor", "mb"),
    [(spec(), 0), (spec("a", 64, 3), 192), (spec("a", 64, 3, 4), 256), (spec("a", 64, 3, 4, 5, 2), 320)],
)
def test_floors_are_added_up(floor: VersionSpec, mb: int) -> None:
    """Reserved, always ready, and ready at certain times are the same instances: the most of them counts."""
    assert capacity.floor_mb(floor) == mb


def test_refusal_is_without_figures() -> None:
    """Who reads it knows what to change, and by how much."""
    (problem,) = capacity.conflicts(spec("hello", 256, 4), None, [spec("a", 128, 5)], 2000)
    for figure in ("hello is to have 1024 MB", "other functions have 640 MB", "1664 MB", "1600 MB (80% of 2000 MB)"):
        assert figure in problem


@given(specs, st.lists(specs, max_size=5), st.integers(1, 20_000))
def test_promises_exceed_what_there_is(new: VersionSpec, others: list[VersionSpec], capacity_mb: int) -> None:
    """What is accepted fits into four fifths, or promises nothing."""
    if not capacity.conflicts(new, None, others, capacity_mb) and capacity.floor_mb(new):
        assert sum(map(capacity.floor_mb, [new, *others])) <= 0.8 * capacity_mb


@given(specs, specs, st.lists(specs, max_size=5), st.integers(1, 20_000))
def test_smaller_promise_is_refused(one: VersionSpec, other: VersionSpec, others: list[VersionSpec], mb: int) -> None:
    """On a platform that has shrunk, a function can still be mended, as long as it asks for no more."""
    new, before = sorted((one, other), key=capacity.floor_mb)
    assert not capacity.conflicts(new, before, others, mb)


def test_unknown_capacity_is_taken_as_none() -> None:
    """Without the setting nothing is refused."""
    assert not capacity.conflicts(spec("a", 10_240, 1000), None, [], None)
