"""What is known of nodes and routers: by this process's own clock, and only as long as it is fresh."""

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from mayfly_chassis.bus import Bus
from mayfly_proto import codec, messages, records, subjects
from mayfly_proto.records import Client, FunctionLoad, NodeLease, NodeLoad, RouterLoad, VersionLoad
from mayfly_scaler.functions.metrics import VALID_S, Metrics
from mayfly_scaler.functions.usage import Usage, survey
from mayfly_scaler.reports import GONE_S, STALE_S, Reports
from mayfly_scaler.told import decode_node

SCALER = Path(__file__).parents[2] / "services" / "scaler" / "mayfly_scaler"
OF_THE_DAY = {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "datetime.today", "time.localtime"}
FOR_PEOPLE = {"decisions.py", "nodes/targets.py", "functions/functions.py"}  # what they read, and hours they name


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def reports(clock: Clock) -> Reports:
    return Reports(Bus("scaler", None), clock)


def hear(receive: Callable[[bytes, bytes, bytes | None, bytes], None], record: NodeLoad | RouterLoad) -> None:
    subject = subjects.load_node(record.node) if isinstance(record, NodeLoad) else subjects.load_router(record.router)
    receive(subject.encode(), b"", None, records.encode(record))


def lease(reports: Reports, node: str, epoch: int = 1) -> None:
    own = NodeLease(node=node, epoch=epoch, client=Client(server="s", id=1), memory_mb=1000, cores=2)
    reports._lease(node, records.encode(own))


def node(name: str, epoch: int = 1, **fields: Any) -> NodeLoad:
    base: dict[str, Any] = {"seq": 1, "memory_mb": 1000, "memory_used_mb": 0, "cpu_percent": 0.0}
    return NodeLoad(node=name, epoch=epoch, instances=fields.pop("instances", {}), routers={}, **base | fields)


def router(name: str, **functions: FunctionLoad) -> RouterLoad:
    return RouterLoad(router=name, epoch=1, functions=functions)


async def test_a_report_counts_for_three_seconds(reports: Reports, clock: Clock) -> None:
    """Older ones say nothing, nor does one of a worker that was started anew, or of no lease."""
    for name in ("n1", "n2", "n3", "n4"):
        lease(reports, name)
    hear(reports._node, node("n1"))
    hear(reports._node, node("n2", epoch=7))
    hear(reports._node, node("n9"))
    assert [load.node for load in reports.fresh_nodes()] == ["n1"]
    clock.now += STALE_S
    assert [load.node for load in reports.fresh_nodes()] == ["n1"]
    clock.now += 0.1
    assert not list(reports.fresh_nodes())
    reports._lease("n1", None)
    assert "n1" not in reports.nodes


async def test_a_function_is_what_its_owner_said_last(reports: Reports, clock: Clock) -> None:
    """Nothing to say is nothing to do; silence is not knowing; and it moves to another owner at once."""
    assert reports.function("hello") is None
    hear(reports._router, router("r1", hello=FunctionLoad(queued=3)))
    assert reports.function("hello") == FunctionLoad(queued=3)
    assert reports.function("other") == FunctionLoad()
    hear(reports._router, router("r2", hello=FunctionLoad(queued=4)))
    hear(reports._router, router("r1"))
    assert reports.function("hello") == FunctionLoad(queued=4)
    hear(reports._router, router("r2"))
    assert reports.function("hello") == FunctionLoad()
    clock.now += STALE_S + 1
    assert reports.function("hello") is None


async def test_what_a_dead_router_said_is_not_kept_for_ever(reports: Reports, clock: Clock) -> None:
    """Its functions have another owner, who says nothing of those that rest: after a while that counts."""
    hear(reports._router, router("r1", hello=FunctionLoad(ready=3)))
    clock.now += STALE_S + 1
    hear(reports._router, router("r2"))
    assert reports.function("hello") is None
    clock.now += GONE_S
    hear(reports._router, router("r2"))
    assert reports.function("hello") == FunctionLoad()


async def test_nothing_is_kept_of_those_that_do_not_come_back(reports: Reports, clock: Clock) -> None:
    """Routers and nodes that are replaced have new names each time."""
    for number in range(20):
        said = {"hello": FunctionLoad(ready=3), f"f{number}": FunctionLoad(ready=1)}
        hear(reports._router, router(f"r{number}", **said))
        lease(reports, f"n{number}")
        hear(reports._node, node(f"n{number}"))
        reports._lease(f"n{number}", None)
        hear(reports._node, node(f"n{number}"))
        clock.now += GONE_S + 1
    assert len(reports._routers) <= 2
    assert len(reports.owners) <= 2
    assert not reports.nodes


async def test_orders_without_a_place_pass(reports: Reports, clock: Clock) -> None:
    """The last word of each function, for as long as any report counts."""
    for instances in (2, 5):
        order = messages.Blocked("r1", "hello", 1, instances, 128, messages.Refusal.NO_ROOM)
        reports._no_place(b"", b"", None, codec.pack(order))
    assert [order.instances for order in reports.fresh_blocked()] == [5]
    clock.now += STALE_S + 1
    assert not list(reports.fresh_blocked())


async def test_only_wanted_numbers_are_kept(clock: Clock) -> None:
    """Anybody may publish anything under any name; a number counts for a minute."""
    metrics = Metrics(Bus("scaler", None), clock)
    metrics.wanted = {"jobs.waiting"}

    def publish(name: str, payload: bytes) -> None:
        metrics._received(subjects.metric(name).encode(), b"", None, payload)

    for payload in (b" 12.5\n", b"many", b"nan", b"inf", b"", b"1" * 100):
        publish("jobs.waiting", payload)
        publish("jobs", payload)
    assert metrics.value("jobs.waiting") == 12.5
    assert metrics.value("jobs") is None
    clock.now += VALID_S + 1
    assert metrics.value("jobs.waiting") is None


def test_use_is_that_of_the_current_version_where_it_was_measured() -> None:
    """A version that is on its way out, or has not been measured yet, says nothing of the one that serves."""
    first = node("n1", instances={"hello": {"1": VersionLoad(ready=1, private_mb=99.0), "2": _measured(2, 30.0)}})
    second = node("n2", instances={"hello": {"2": _measured(1, 60.0)}, "gone": {"1": _measured(1, 1.0)}})
    third = node("n3", instances={"hello": {"2": VersionLoad(ready=5)}})
    reports = [decode_node(records.encode(load)) for load in (first, second, third)]
    found = survey(reports, {"hello": 2})
    assert found == {"hello": Usage(instances=3, cpu_percent=150.0, private_mb=120.0)}


def _measured(ready: int, private_mb: float) -> VersionLoad:
    return VersionLoad(ready=ready, private_mb=private_mb, cpu_percent=50.0)


@pytest.mark.invariant("I34")
@pytest.mark.parametrize("report", [NodeLoad, RouterLoad, FunctionLoad, VersionLoad, messages.Blocked])
def test_reports_carry_no_time_of_day(report: type) -> None:
    """Ages and counts only: a clock that is wrong, or jumps, has no way into a decision."""
    named = [name for name in get_type_hints(report) if any(word in name for word in ("time", "at_", "since", "when"))]
    assert not named


@pytest.mark.invariant("I34")
def test_decisions_do_not_look_at_the_time_of_day() -> None:
    """Every module of the scaler goes by the monotonic clock of its process, but for what people read and the hours
    at which they want something provisioned."""
    guilty = {
        f"{path.relative_to(SCALER)}:{call.lineno}"
        for path in SCALER.rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call) and ast.unparse(call.func) in OF_THE_DAY
        if str(path.relative_to(SCALER)) not in FOR_PEOPLE
    }
    assert not guilty
