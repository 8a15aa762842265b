"""Durable calls that lie ready behind the slots of a node: which of them runs, when, and who hears of it."""

from typing import Any, cast

import pytest
import structlog

from mayfly_chassis.bus import Bus
from mayfly_proto import codec, messages
from mayfly_proto.messages import Invoke
from mayfly_proto.records import Package, VersionSpec
from mayfly_worker.calls import Calls
from mayfly_worker.complaints import Complaints
from mayfly_worker.fence import Fence
from mayfly_worker.group import Instance
from mayfly_worker.invoke import Invoker
from mayfly_worker.pool import Pool

SPEC = VersionSpec(
    name="f",
    version=1,
    runtime="python",
    handler="f:f",
    package=Package(sha256="0", size=1, format="py", filename="f.py"),
    created="",
    timeout_s=3.0,
)


class Wire:
    payload_limit = 1000

    def __init__(self) -> None:
        self.sent: list[tuple[bytes, bytes]] = []

    def publish(self, subject: bytes, payload: bytes, *, headers: bytes | None = None) -> None:
        self.sent.append((subject, payload))


class Process:
    """An instance's process: what it is sent."""

    def __init__(self) -> None:
        self.got: list[tuple[int, bytes, int]] = []  # id, payload, budget

    def send(self, id_: int, _invocation: str, budget_ms: int, *rest: Any) -> None:
        self.got.append((id_, rest[-1], budget_ms))


class Worker:
    def __init__(self) -> None:
        self.wire = Wire()
        self.pool = Pool(1000, 8)
        self.calls = Calls("n1", 1)
        complaints = Complaints(structlog.get_logger())
        self.invoker = Invoker(cast(Bus, self.wire), self.pool, self.calls, Fence(), complaints)
        self.process = Process()
        (self.instance,) = self.pool.order("f", 1, 100, ["i1"], 0.0).starting
        self.instance.process = cast(Any, self.process)

    def ready(self) -> Instance:
        self.instance.group.configure(SPEC)
        self.instance.group.ready(self.instance, 0.0)
        self.invoker.serve(self.instance.group)
        return self.instance

    def send(self, seq: int, router: str = "r1") -> None:
        reply = f"mayfly.settle.f.EVENTS.f_1.1.{seq}.1.1.0"
        meta = Invoke(seq, router, 1, "f", 1, f"E{seq}", reply, 100_000_000, 1)
        self.invoker.on_invoke(b"", b"", None, codec.pack(meta, b"%d" % seq))

    def words(self) -> list[tuple[str, messages.Done]]:
        self.invoker.tell_routers()
        unpack = codec.Unpacker(messages.Done)
        said = [(s.decode(), unpack(p)[0]) for s, p in self.wire.sent if s.startswith(b"mayfly.router.")]
        return [(subject.split(".")[2], done) for subject, done in said]


@pytest.fixture
async def worker() -> Worker:
    return Worker()


async def test_a_call_that_came_before_its_instance_was_ready_has_its_time(worker: Worker) -> None:
    """What a version allows is known when the first of its instances is launched: until then it is not nothing."""
    worker.send(1)
    worker.ready()
    assert worker.process.got == [(1, b"1", 3000)]


async def test_they_run_in_the_order_in_which_they_came(worker: Worker) -> None:
    """Each as the slot before it is free."""
    worker.ready()
    for seq in (1, 2, 3):
        worker.send(seq)
    for id_ in (1, 2, 3):
        worker.invoker.result(worker.instance, id_, 0, None, b"")
    assert [payload for _, payload, _ in worker.process.got] == [b"1", b"2", b"3"]


async def test_what_waits_is_refused_when_nothing_is_left_that_could_take_it(worker: Worker) -> None:
    """Its last instance is told to go, or dies: the router has it back at once, and nothing is remembered of it."""
    worker.ready()
    for seq in (1, 2):
        worker.send(seq)
    worker.pool.shrink("f", 1, -1)
    worker.invoker.serve(worker.instance.group)
    ((router, done),) = worker.words()
    assert (router, done.refused) == ("r1", [(2, "busy")])
    assert len(worker.calls) == 1


async def test_what_waits_is_the_new_routers_when_its_own_is_gone(worker: Worker) -> None:
    """It is told of it, and hears when it is refused after all, by the number that it knows."""
    worker.ready()
    for seq in (1, 2):
        worker.send(seq)
    _, views = worker.calls.adopt("r2", lambda _: True, 0.0)
    assert [(view.invocation, view.seq) for view in views] == [("E1", -1), ("E2", -2)]
    worker.instance.group.fail(worker.instance)
    worker.invoker.serve(worker.instance.group)
    ((router, done),) = worker.words()
    assert (router, done.refused) == ("r2", [(-2, "busy")])


async def test_a_version_that_comes_back_does_not_have_the_calls_of_its_former_instances(worker: Worker) -> None:
    """They were refused when the last of those was gone."""
    worker.ready()
    for seq in (1, 2):
        worker.send(seq)
    before = worker.instance.group
    worker.pool.remove(worker.instance)
    worker.invoker.serve(before)
    assert not before.waiting
    (again,) = worker.pool.order("f", 1, 100, ["i2"], 0.0).starting
    assert not again.group.waiting
    assert worker.pool.memory_used_mb == 100
