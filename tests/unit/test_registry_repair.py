"""What the reconciler makes, removes and leaves alone."""

from datetime import UTC, datetime, timedelta
from typing import Any

from mayfly_proto import storage, subjects
from mayfly_proto.records import FunctionRecord, Package, Trigger, VersionSpec
from mayfly_registry import repair, wanted
from mayfly_registry.consumers import Info
from mayfly_registry.repair import Wishes
from mayfly_registry.wanted import Consumer

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
YOUNG = NOW - timedelta(seconds=300)
OLD = "2026-05-01T00:00:00Z"
PACKAGE = Package(sha256="", size=0, format="py", filename="a.py")


def spec(version: int, *triggers: Trigger, name: str = "f", created: str = OLD) -> VersionSpec:
    return VersionSpec(
        name=name,
        version=version,
        runtime="python",
        handler="a:b",
        package=PACKAGE,
        created=created,
        triggers=list(triggers),
    )


def event(name: str, number: int) -> Trigger:
    return Trigger(event=name, number=number)


def records(**current: int) -> dict[str, FunctionRecord]:
    return {name: FunctionRecord(name=name, current=version, versions=[version]) for name, version in current.items()}


def info(consumer: Consumer, *, created: datetime = YOUNG - timedelta(1), **fields: Any) -> Info:
    given = {"function": consumer.function, "filter_subject": consumer.filter_subject, "paused": False}
    given |= {"pending": 0, "unacknowledged": 0, "acknowledged_to": 0}
    return Info(stream=consumer.stream, name=consumer.name, created=created, **given | fields)


def everything(of: VersionSpec, **fields: Any) -> list[Info]:
    return [info(consumer, **fields) for consumer in wanted.consumers(of)]


def wishes(*specs: VersionSpec, **current: int) -> Wishes:
    return repair.wishes(specs, records(**current), [], YOUNG)


def test_what_is_right_is_touched() -> None:
    """A round in which everything is as it should be does nothing."""
    current = spec(2, event("a", 1))
    plan = repair.plan(wishes(spec(1), current, f=2), everything(current), records(f=2), YOUNG)
    assert plan == repair.Plan(make=[], remove=[], pause=[], resume=[])


def test_deploy_on_its_way_loses_its_consumer() -> None:
    """An old consumer that nobody needs stays while a spec that is young wants it, and a young one in any case."""
    gone, coming = spec(1, event("a", 1)), spec(3, event("a", 1), created="2026-05-01T11:59:00Z")
    left = everything(gone)
    keys = [(storage.EVENTS, "f_1")]
    assert [i.key for i in repair.plan(wishes(spec(2), f=2), left, records(f=2), YOUNG).remove] == keys
    assert repair.plan(wishes(spec(2), coming, f=2), left, records(f=2), YOUNG).remove == []
    fresh = everything(gone, created=NOW)
    assert repair.plan(wishes(spec(2), f=2), fresh, records(f=2), YOUNG).remove == []


def test_consumer_of_nobody_is_removed() -> None:
    """Those of functions that are gone go; one without our metadata never does."""
    left = everything(spec(1, event("a", 1)))
    theirs = everything(spec(1, event("b", 2)), function="")
    plan = repair.plan(wishes(), [*left, *theirs[:1]], {}, YOUNG)
    assert plan.remove == left


def test_consumer_with_another_filter_counts_as_there() -> None:
    """What has the right name and wants something else is made again."""
    current = spec(1, event("a", 1))
    found = [
        info(c, filter_subject="event.b") if c.stream == storage.EVENTS else info(c) for c in wanted.consumers(current)
    ]
    plan = repair.plan(wishes(current, f=1), found, records(f=1), YOUNG)
    assert ([consumer.key for consumer in plan.make], plan.remove) == ([(storage.EVENTS, "f_1")], [])


def test_schedule_of_a_function_is_taken_for_a_retry() -> None:
    """Of functions that there are: only triggers' schedules that nobody wants. Of others: everything."""
    current = spec(1, Trigger(schedule="@hourly", number=2), name="a.b")
    found = [subjects.schedule("a.b", identity) for identity in ("t2", "t3", "E7", "A12")]
    other = [subjects.schedule("a", "A1"), subjects.schedule("gone.x", "E7")]
    hopes = repair.wishes([current], records(**{"a.b": 1}), [], YOUNG)
    assert repair.stray_schedules([*found, *other], hopes) == [found[1], *other]
    due = [subjects.due(name) for name in ("a.b", "a", "gone.x")]
    assert repair.stray_due(due, hopes) == ["a", "gone.x"]


def test_streams_of_the_users_are_not_looked_at() -> None:
    """Every stream that some version has a trigger on."""
    triggers = (Trigger(stream="ORDERS", subject="o.>", number=1), Trigger(object="uploads", number=2))
    assert set(repair.streams([spec(1, *triggers), spec(2, event("a", 3))])) == {
        storage.EVENTS,
        storage.ASYNC,
        storage.SCHEDULES,
        "ORDERS",
        subjects.object_stream("uploads"),
    }
