"""Numbers of triggers: the same for the same trigger, never the same for two."""

from hypothesis import given
from hypothesis import strategies as st

from mayfly_proto.records import Package, Trigger, VersionSpec
from mayfly_registry import numbers

PACKAGE = Package(sha256="", size=0, format="py", filename="a.py")
EVENTS = [Trigger(event=name) for name in ("a", "b", "c", "d")]
OTHERS = [Trigger(http="/a"), Trigger(subject="s.a"), Trigger(schedule="@hourly"), Trigger(schedule="@daily")]


def spec(version: int, triggers: list[Trigger]) -> VersionSpec:
    return VersionSpec(
        name="f", version=version, runtime="python", handler="a:b", package=PACKAGE, created="", triggers=triggers
    )


def test_what_needs_no_number_has_one() -> None:
    """Only what has a consumer or a schedule is numbered."""
    given = [*OTHERS, EVENTS[0], Trigger(stream="S", subject="s.a"), Trigger(object="o")]
    assert [trigger.number for trigger in numbers.numbered(given, [])] == [0, 0, 1, 2, 3, 4, 5]


def test_start_or_payload_makes_another_trigger() -> None:
    """The position is the trigger's, however it began and whatever its ticks carry."""
    old = numbers.numbered([Trigger(event="a"), Trigger(schedule="@hourly")], [])
    new = [Trigger(schedule="@hourly", payload=1, missed="all"), Trigger(event="a", start="all")]
    assert [trigger.number for trigger in numbers.numbered(new, [spec(1, old)])] == [2, 1]


def test_two_deploys_at_once_are_not_seen() -> None:
    """Whoever looks after writing sees that a number means two things, or a trigger has two numbers."""
    one, same = spec(1, numbers.numbered(EVENTS[:2], [])), spec(2, numbers.numbered(EVENTS[:2], []))
    swapped, other = spec(3, numbers.numbered(EVENTS[1::-1], [])), spec(4, numbers.numbered(EVENTS[2:], []))
    assert not numbers.clash(one, [one, same])
    assert numbers.clash(one, [one, swapped])
    assert numbers.clash(other, [one, other])


@given(st.lists(st.lists(st.sampled_from(EVENTS + OTHERS), unique_by=str, max_size=5), max_size=8))
def test_number_means_two_triggers(versions: list[list[Trigger]]) -> None:
    """Through any history of deploys."""
    specs: list[VersionSpec] = []
    for version, triggers in enumerate(versions, 1):
        made = spec(version, numbers.numbered(triggers, specs))
        assert not numbers.clash(made, [*specs, made])
        specs.append(made)
    pairs = {(t.number, numbers.identity(t)) for s in specs for t in s.triggers if numbers.identity(t)}
    assert len(pairs) == len({number for number, _ in pairs}) == len({who for _, who in pairs})
