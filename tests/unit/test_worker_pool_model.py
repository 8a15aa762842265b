"""Any order of events keeps the promises of the pool."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mayfly_proto.states import Instance as State
from mayfly_worker.group import Instance
from mayfly_worker.holds import HOLD_S, Hold
from mayfly_worker.pool import Pool
from tests.unit.worker_pool import spec

KEEP_ALIVE_S = 10.0


class PoolMachine(RuleBasedStateMachine):
    """What the pool's docstring promises."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = Pool(1000, 5)
        self.now = 0.0
        self.count = 0
        self.calls: list[Instance] = []
        self.holds: dict[str, tuple[Hold, float]] = {}

    def some(self, *states: State) -> list[Instance]:
        return [i for i in self.pool.instances.values() if i.state in states]

    @rule(function=st.sampled_from("abc"), number=st.integers(1, 4), memory=st.sampled_from([50, 300]))
    def order(self, function: str, number: int, memory: int) -> None:
        ids = [f"i{self.count + k}" for k in range(number)]
        self.count += number
        group = self.pool.groups.get((function, 1))
        memory = group.memory_mb if group else memory
        before = self.ready_by_function() | {function: 0}
        admission = self.pool.order(function, 1, memory, ids, self.now)
        assert bool(admission.reason) == (len(admission.accepted) < number)
        assert all(i.finished and i.group.function != function for i in admission.evicted)
        self.check_floor(before)

    @precondition(lambda self: self.some(State.STARTING))
    @rule(data=st.data(), concurrency=st.integers(1, 3))
    def become_ready(self, data: st.DataObject, concurrency: int) -> None:
        instance = data.draw(st.sampled_from(self.some(State.STARTING)))
        instance.group.configure(spec(concurrency, keep_alive_s=KEEP_ALIVE_S))
        instance.group.ready(instance, self.now)

    @precondition(lambda self: self.pool.groups)
    @rule(data=st.data())
    def call(self, data: st.DataObject) -> None:
        group = data.draw(st.sampled_from(list(self.pool.groups.values())))
        free = sum(group.concurrency - i.in_flight for i in self.some(State.IDLE, State.BUSY) if i.group is group)
        instance = group.take()
        assert (instance is None) == (free == 0)
        if instance is not None:
            assert instance.state is State.BUSY
            self.calls.append(instance)

    @precondition(lambda self: self.calls)
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        instance = data.draw(st.sampled_from(self.calls))
        self.calls.remove(instance)
        instance.group.release(instance, self.now)

    @rule(function=st.sampled_from("abc"), count=st.integers(-1, 3))
    def shrink(self, function: str, count: int) -> None:
        drained = self.pool.shrink(function, 1, count)
        assert all(i.state is State.DRAINING for i in drained)

    @rule(
        function=st.sampled_from("abc"),
        count=st.integers(0, 3),
        last_s=st.sampled_from([None, 3.0, 60.0]),
        further_s=st.sampled_from([None, 1.0, 20.0]),
    )
    def hold(self, function: str, count: int, last_s: float | None, further_s: float | None) -> None:
        self.pool.hold(function, 1, Hold(count, last_s, further_s), self.now)
        self.holds[function] = (Hold(count, last_s, further_s), self.now + HOLD_S)

    def held(self, function: str) -> Hold:
        hold, until = self.holds.get(function, (Hold(), 0.0))
        return hold if self.now < until else Hold()

    def ready_by_function(self) -> dict[str, int]:
        return {function: len(group.in_service()) for (function, _), group in self.pool.groups.items()}

    def check_floor(self, before: dict[str, int]) -> None:
        for function, count in self.ready_by_function().items():
            assert count >= min(self.held(function).instances, before[function])

    @rule(seconds=st.sampled_from([0.5, 5.0, 11.0, 301.0]))
    def wait_and_reclaim(self, seconds: float) -> None:
        self.now += seconds
        before = self.ready_by_function()
        oldest = {key: [i.id for i in group.idle] for key, group in self.pool.groups.items()}
        for instance in self.pool.reclaim(self.now):
            assert instance.finished
            function = instance.group.function
            assert oldest[function, 1].pop(0) == instance.id
            hold = self.held(function)
            shortest = [KEEP_ALIVE_S if limit_s is None else limit_s for limit_s in hold[1:3]]
            assert self.now - instance.idle_since >= min(shortest)
        self.check_floor(before)

    @rule(excess_mb=st.floats(0.0, 100.0))
    def relieve(self, excess_mb: float) -> None:
        before = self.ready_by_function()
        assert all(instance.finished for instance in self.pool.relieve(excess_mb, self.now))
        self.check_floor(before)

    @rule()
    def let_go_of_what_is_not_held(self) -> None:
        before = self.ready_by_function()
        self.pool.drain_spare(self.now)
        self.check_floor(before)
        for (function, _), group in self.pool.groups.items():
            live = [instance for instance in group.members.values() if instance.live]
            if not self.held(function).instances:
                assert not live
            else:
                assert len(group.idle) <= self.held(function).instances
        assert self.pool.holds(self.now) == any(instance.live for instance in self.pool.instances.values())

    @precondition(lambda self: self.pool.instances)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        instance = data.draw(st.sampled_from(list(self.pool.instances.values())))
        if instance.in_flight and instance.state is not State.FAILED:
            instance.group.fail(instance)
        while instance in self.calls:
            self.calls.remove(instance)
            instance.group.release(instance, self.now)
        self.pool.remove(instance)

    @invariant()
    def promises_hold(self) -> None:
        assert self.pool.memory_used_mb <= self.pool.memory_mb
        assert len(self.some(State.STARTING)) <= self.pool.max_starting
        for instance in self.pool.instances.values():
            assert instance.in_flight == self.calls.count(instance)
            assert 0 <= instance.in_flight <= instance.group.concurrency
            assert (instance.state is State.BUSY) <= (instance.in_flight > 0)
            assert not (instance.state is State.IDLE and instance.in_flight)


@pytest.mark.invariant("P11", "S27")
class TestPoolMachine(PoolMachine.TestCase):
    settings = settings(max_examples=60, stateful_step_count=40, deadline=None, database=None)
