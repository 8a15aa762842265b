"""Whatever happens to a node, in whatever order, each call that came to it ends once."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mayfly_proto.messages import Refusal
from mayfly_proto.states import Instance as State
from mayfly_proto.states import Node as NodeState
from tests.unit.worker_rig import HELD_LIMIT_S, Process, Rig

FUNCTIONS = st.sampled_from("ab")


class NodeMachine(RuleBasedStateMachine):
    """Calls, starts, stops, holds, drains, evictions and crashes. That no process gets a call after it was told to
    stop, and is not told so while it has one, `Process` asserts itself."""

    def __init__(self) -> None:
        super().__init__()
        self.rig = Rig(memory_mb=600, max_starting=4)
        self.calls: dict[int, str] = {}
        self.started = 0
        self.cordoned_at = 0.0

    def teardown(self) -> None:
        rig = self.rig
        for _ in range(30):  # whatever runs ends, whatever was told to stop stops
            rig.ready()
            rig.answer_all()
            rig.end_told()
        for seq, reply in self.calls.items():
            answered, refused = rig.wire.answered[reply], rig.wire.refused[seq]
            assert answered + refused == 1, f"call {seq}: answered {answered} times, refused {refused} times"
            assert rig.wire.finished[seq] == answered
        assert not rig.node.calls
        rig.close()

    def processes(self, *, busy: bool | None = None) -> list[Process]:
        alive = [process for process in self.rig.processes if not process.ended and not process.killed]
        return [process for process in alive if busy is None or bool(process.running) == busy]

    @rule(function=FUNCTIONS, number=st.integers(1, 3))
    def order(self, function: str, number: int) -> None:
        ids = [f"{function}{self.started + k}" for k in range(number)]
        self.started += number
        answer = self.rig.order(function, *ids, concurrency=1 if function == "a" else 2)
        if self.rig.node.cordon.state is not NodeState.UP:
            assert (answer.accepted, answer.reason) == ([], Refusal.DRAINING)

    @rule()
    def become_ready(self) -> None:
        self.rig.ready()

    @rule(function=FUNCTIONS, durable=st.booleans(), number=st.integers(1, 4))
    def call(self, function: str, durable: bool, number: int) -> None:
        for _ in range(number):
            seq, reply = self.rig.call(function, durable=durable)
            self.calls[seq] = reply

    @precondition(lambda self: self.processes(busy=True))
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        self.rig.run(data.draw(st.sampled_from(self.processes(busy=True))).answer)

    @precondition(lambda self: self.processes())
    @rule(data=st.data())
    def crash(self, data: st.DataObject) -> None:
        self.rig.crash(data.draw(st.sampled_from(self.processes())))

    @rule()
    def end_told(self) -> None:
        self.rig.end_told()

    @rule(function=FUNCTIONS, instances=st.integers(-1, 2))
    def stop(self, function: str, instances: int) -> None:
        self.rig.stop(function, instances)

    @rule(function=FUNCTIONS, instances=st.integers(0, 2), last_ms=st.sampled_from([-1, 500, 60_000]))
    def hold(self, function: str, instances: int, last_ms: int) -> None:
        self.rig.hold(function, instances, last_ms, last_ms)

    @rule(on=st.booleans(), epoch=st.integers(1, 3))
    def drain(self, on: bool, epoch: int) -> None:
        before = self.rig.node.cordon.state
        held = self.held()
        answer = self.rig.drain(on, epoch)
        if before is NodeState.UP and answer.state == "draining":
            self.cordoned_at = self.rig.now
            self.check_floor(held)

    @rule(seconds=st.sampled_from([0.25, 1.0, 12.0]))
    def wait(self, seconds: float) -> None:
        held, began = self.held(), self.rig.now
        self.rig.pass_time(seconds)
        if self.rig.node.cordon.state is NodeState.DRAINING and began + seconds - self.cordoned_at < HELD_LIMIT_S:
            self.check_floor(held)

    @rule(used=st.floats(0.5, 1.0))
    def memory_runs_short(self, used: float) -> None:
        self.rig.machine.used = used
        self.rig.run(self.rig.node.relieve)

    def held(self) -> dict[str, int]:
        """Ready instances that their owner wants to stay."""
        pool, now = self.rig.node.pool, self.rig.now
        return {
            function: min(pool.held(group, now), len(group.in_service()))
            for (function, _), group in pool.groups.items()
        }

    def check_floor(self, held: dict[str, int]) -> None:
        for (function, _), group in self.rig.node.pool.groups.items():
            assert len(group.in_service()) >= held[function]

    @invariant()
    def promises_hold(self) -> None:
        node = self.rig.node
        assert node.pool.memory_used_mb <= node.pool.memory_mb
        for instance in self.rig.instances:
            assert instance.in_flight == len(node.calls.of(instance))
            assert not (instance.state is State.DRAINING and instance.id in node.starting) or not instance.in_flight
        if self.rig.state:
            assert self.rig.state == node.cordon.state.value
        assert (node.cordon.state is NodeState.EMPTY) <= (not self.rig.instances)


@pytest.mark.invariant("S12", "S23", "S24", "S27")
class TestNodeMachine(NodeMachine.TestCase):
    settings = settings(max_examples=60, stateful_step_count=40, deadline=None, database=None)
