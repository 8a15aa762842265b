"""Nodes and functions as people see them: put together from leases, targets and reports, and nothing made up."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mayfly_gateway import fleet, traffic
from mayfly_gateway.reports import STALE_S, WINDOW_S, Reports
from mayfly_proto import records, states, subjects
from mayfly_proto.records import Client, FunctionLoad, NodeLease, NodeLoad, NodeTarget, RouterLoad, VersionLoad


def lease(node: str = "n1", epoch: int = 1, **fields: object) -> NodeLease:
    known = {"client": Client(server="s", id=1), "memory_mb": 512, "cores": 2, "isolation": ["process", "sandbox"]}
    return msgspec.convert({"node": node, "epoch": epoch, **known, **fields}, NodeLease, from_attributes=True)


def report(node: str = "n1", epoch: int = 1, state: str = "up", **instances: VersionLoad) -> NodeLoad:
    return NodeLoad(
        node=node,
        epoch=epoch,
        seq=1,
        memory_mb=512,
        memory_used_mb=128,
        cpu_percent=12.34,
        instances={function: {"1": counts} for function, counts in instances.items()},
        routers={},
        state=state,
    )


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def heard(reports: Reports, load: NodeLoad | RouterLoad) -> None:
    if isinstance(load, NodeLoad):
        reports.node(subjects.load_node(load.node).encode(), b"", None, records.encode(load))
    else:
        reports.router(subjects.load_router(load.router).encode(), b"", None, records.encode(load))


def router(name: str = "r1", **functions: FunctionLoad) -> RouterLoad:
    return RouterLoad(router=name, epoch=1, functions=functions)


def test_row_says_what_lease_target_and_report_say() -> None:
    """Counts of all functions and versions are added up; labels are one cell."""
    said = report(a=VersionLoad(ready=3, busy=1, starting=2), b=VersionLoad(ready=1, busy=1))
    target = NodeTarget(by="operator", since="2026-01-01T00:00:00Z", why="new disk")
    labelled = lease(labels={"zone": "a", "gpu": "yes"})
    (row,) = fleet.rows([labelled], {"n1": target}, {"n1": (said, 0.25)})
    assert (row.ready, row.busy, row.starting, row.memory_used_mb, row.cpu_percent) == (4, 2, 2, 128, 12.3)
    assert (row.labels, row.isolation) == ("gpu=yes, zone=a", "process, sandbox")
    assert (row.drain_by, row.drain_why, row.heard_s) == ("operator", "new disk", 0.2)


@pytest.mark.parametrize(
    ("draining", "said", "shown"),
    [
        (False, "up", "up"),
        (True, "up", "draining"),
        (True, "draining", "draining"),
        (True, "empty", "empty"),
        (True, None, "draining"),
        (False, None, "up"),
    ],
)
def test_state_is_the_newer_word(draining: bool, said: str | None, shown: str) -> None:
    """A node that drains is never shown as up because its report is a second old."""
    reports = {"n1": (report(state=said), 0.0)} if said else {}
    (row,) = fleet.rows([lease(draining=draining)], {}, reports)
    assert row.state == shown


def test_report_of_a_former_life_is_none() -> None:
    """A worker that has just started again is not shown with the instances that died with the one before."""
    (row,) = fleet.rows([lease(epoch=2)], {}, {"n1": (report(epoch=1, a=VersionLoad(ready=9)), 0.5)})
    assert (row.ready, row.memory_used_mb, row.heard_s, row.state) == (None, None, None, states.Node.UP.value)


def test_rates_are_of_the_last_seconds() -> None:
    """Ten seconds after a burst its calls no longer count; before the second report there is no rate."""
    clock = Clock()
    reports = Reports(clock)
    heard(reports, router(a=FunctionLoad(calls=1000, cold=10)))
    (row,) = traffic.rows([], reports.routers())
    assert (row.rate, row.cold_percent) == (None, None)
    for second in range(1, 31):
        clock.now += 1
        heard(reports, router(a=FunctionLoad(calls=1000 + min(second, 5) * 100, cold=10 + min(second, 5) * 25)))
        (row,) = traffic.rows([], reports.routers())
        if second == 5:
            assert (row.rate, row.cold_percent) == (100.0, 25.0)
    assert (row.rate, row.cold_percent) == (0.0, None)


@given(st.lists(st.floats(0.2, 4.9), min_size=1, max_size=60))
def test_window_is_as_long_as_said(pauses: list[float]) -> None:
    """However irregularly reports come: as far back as the window when there is so much, and not much further."""
    clock = Clock()
    reports = Reports(clock)
    heard(reports, router())
    for pause in pauses:
        clock.now += pause
        heard(reports, router())
    ((_, _, seconds),) = reports.routers()
    assert seconds >= min(sum(pauses), WINDOW_S) - 1e-6
    assert seconds <= WINDOW_S + max(pauses)


def test_counters_that_begin_again_are_no_loss() -> None:
    """A router that was started again counts from 0: what it has counted since is what happened."""
    clock = Clock()
    reports = Reports(clock)
    heard(reports, router(a=FunctionLoad(calls=1000, errors=7, throttled=5)))
    clock.now += 10
    heard(reports, router(a=FunctionLoad(calls=50, errors=1, throttled=2)))
    (row,) = traffic.rows([], reports.routers())
    assert (row.rate, row.errors, row.throttled) == (5.0, 1, 2)


def test_function_that_wakes_has_not_done_everything_at_once() -> None:
    """A router says nothing of what is at rest: its calls of hours are not those of the second in which it wakes."""
    clock = Clock()
    reports = Reports(clock)
    heard(reports, router(a=FunctionLoad(calls=1_000_000, ready=1)))
    for _ in range(30):
        clock.now += 1
        heard(reports, router())
    assert traffic.rows([], reports.routers()) == []
    clock.now += 1
    heard(reports, router(a=FunctionLoad(calls=1_000_020, cold=1, ready=1)))
    (row,) = traffic.rows([], reports.routers())
    assert row.rate == 20 / WINDOW_S
    assert row.cold_percent == 5.0


def test_function_heard_of_first_has_no_past() -> None:
    """One of which nothing was known may have been at rest since before: only what comes is counted."""
    clock = Clock()
    reports = Reports(clock)
    for calls in (None, 5_000, 5_010, 5_030):
        heard(reports, router(**({} if calls is None else {"a": FunctionLoad(calls=calls)})))
        clock.now += 2
    (row,) = traffic.rows([], reports.routers())
    assert row.rate == round(30 / 6, 1)


@given(st.lists(st.tuples(st.floats(0.5, 3), st.integers(0, 3)), min_size=1, max_size=60))
def test_rate_is_that_of_the_window(seconds: list[tuple[float, int]]) -> None:
    """However often it rests in between: what is counted are its calls since the oldest report that is kept."""
    clock = Clock()
    reports = Reports(clock)
    heard(reports, router(a=FunctionLoad()))
    told = [(clock.now, 0)]
    for pause, more in seconds:
        clock.now += pause
        told.append((clock.now, told[-1][1] + more))
        heard(reports, router(**({"a": FunctionLoad(calls=told[-1][1])} if more else {})))
    ((_, now, window_s),) = reports.routers()
    if "a" in now:
        before = [calls for at, calls in told if at <= clock.now - window_s + 1e-6][-1]
        (row,) = traffic.rows([], reports.routers())
        assert row.rate == round((told[-1][1] - before) / window_s, 1)


def test_function_between_two_routers_is_one_row() -> None:
    """While it changes hands both name it: shown is the one that has to do with it."""
    clock = Clock()
    reports = Reports(clock)
    for name in ("r1", "r2"):
        heard(reports, router(name, a=FunctionLoad()))
    clock.now += 1
    heard(reports, router("r1", a=FunctionLoad(queued=1)))
    heard(reports, router("r2", a=FunctionLoad(calls=40, queued=3, p50_ms=1.04)))
    (row,) = traffic.rows([report(a=VersionLoad(ready=2, busy=1))], reports.routers())
    assert (row.rate, row.queued, row.p50_ms, row.ready, row.busy) == (40.0, 3, 1.0, 2, 1)


def test_silent_ones_are_left_out() -> None:
    """A router that died is not shown with its last word for ever, and a node's report ages until it is forgotten."""
    clock = Clock()
    reports = Reports(clock)
    heard(reports, router(a=FunctionLoad(queued=5)))
    heard(reports, report(b=VersionLoad(ready=1)))
    clock.now += STALE_S
    assert list(reports.routers()) == []
    assert reports.nodes()["n1"][1] == STALE_S
    assert [row.function for row in traffic.rows((load for load, _ in reports.nodes().values()), [])] == ["b"]
    clock.now += WINDOW_S
    assert reports.nodes() == {}


def test_nonsense_is_no_report() -> None:
    """Whatever is published there, the rest is shown."""
    reports = Reports(Clock())
    heard(reports, report())
    for raw in (b"", b"{}", b"\xff", b"[1]"):
        reports.node(b"x", b"", None, raw)
        reports.router(b"x", b"", None, raw)
        assert set(reports.nodes()) == {"n1"}
        assert traffic.rows([], reports.routers()) == []
