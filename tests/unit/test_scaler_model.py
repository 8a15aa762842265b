"""Nodes that come and go under random load, drains, crashes and deaths of the leader: the scaler's own decisions on a
model of workers, a router and a provider. Whatever happens, every call ends exactly once."""

from dataclasses import dataclass

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from mayfly_proto import states
from mayfly_scaler.nodes.amount import Amount, Rules
from mayfly_scaler.nodes.demand import Kind, measure
from mayfly_scaler.nodes.drains import Act, Numbering, steps, to_drain, to_have_back
from mayfly_scaler.nodes.fleet import OPERATOR, SCALER, Fleet
from mayfly_scaler.nodes.life import State
from tests.unit.test_scaler_fleet import BOOT_S, World

SLOTS = 5  # calls of 128 MB on a node
KIND = Kind(SLOTS * 128, 4)
DRAIN_LIMIT_S = 60
ATTEMPTS = 3
RULES = Rules(minimum=1, maximum=5, window_s=20, after_out_s=5, between_in_s=2)
NUMBERS = Numbering("n")


@dataclass
class Call:
    number: int
    seconds: int
    durable: bool
    attempts: int = 0
    left: int = 0


class Model(World):
    def __init__(self) -> None:
        super().__init__()
        self.queue: list[Call] = []
        self.running: dict[str, list[Call]] = {}
        self.stopping: dict[str, float] = {}  # since when
        self.booting: dict[str, float] = {}
        self.answers: dict[int, str] = {}
        self.accepted = 0

    def answer(self, call: Call, how: str) -> None:
        assert call.number not in self.answers
        self.answers[call.number] = how

    def lose(self, node: str) -> None:
        """All that ran there: durable calls run again, others are told."""
        for call in self.running.pop(node, []):
            if call.durable and call.attempts < ATTEMPTS:
                self.queue.append(call)
            else:
                self.answer(call, "lost")

    def end(self, node: str) -> None:
        self.lose(node)
        self.leases.pop(node, None)
        self.stopping.pop(node, None)

    def takes_work(self, node: str) -> bool:
        return not self.leases[node].draining and node not in self.stopping and len(self.running[node]) < SLOTS

    def second(self) -> None:
        self.now += 1
        for node, ready in list(self.booting.items()):
            if ready <= self.now:
                del self.booting[node]
                self.join(node, epoch=int(self.now))
                self.running[node] = []
        for calls in self.running.values():
            for call in list(calls):
                call.left -= 1
                if call.left <= 0:
                    calls.remove(call)
                    self.answer(call, "done")
        for node, since in list(self.stopping.items()):
            if not self.running.get(node) or self.now - since > DRAIN_LIMIT_S:
                self.end(node)
                self.listed.discard(node)
        while self.queue and (free := sorted(filter(self.takes_work, self.leases), key=NUMBERS.number)):
            call = self.queue.pop(0)
            call.attempts, call.left = call.attempts + 1, call.seconds
            self.running[free[0]].append(call)
        for node, lease in self.leases.items():
            used_mb = len(self.running[node]) * 128
            empty = lease.draining and not used_mb
            self.report(node, states.Node.EMPTY if empty else states.Node.UP, used_mb=used_mb)


class Scaling(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.provider_works = True
        self.boot("n1")
        self.take_over()

    def take_over(self) -> None:
        self.fleet, self.amount = Fleet(BOOT_S), Amount(RULES)
        self.amount.lead(self.model.now)

    def boot(self, node: str) -> None:
        self.model.listed.add(node)
        self.model.booting[node] = self.model.now + 2

    def look(self) -> None:
        model = self.model
        model.look(self.fleet)
        waiting_mb = len(model.queue) * 128
        demand = measure(self.fleet.seen(), [], KIND, cpu=False).total + waiting_mb / KIND.memory_mb
        self.amount.observe(model.now, demand)
        for step in list(steps(self.fleet, model.targets)):
            self.carry_out(step.act, step.node)
        self.decide()

    def carry_out(self, act: Act, node: str) -> None:
        model = self.model
        match act:
            case Act.DRAIN | Act.RESUME:
                if node not in model.stopping:
                    model.drain(node, act is Act.DRAIN)
            case Act.FORGET:
                del model.targets[node]
            case Act.REMOVE if self.provider_works:
                assert not model.running.get(node), "a node with calls was taken away"
                assert node not in model.targets or model.targets[node].by == SCALER
                if node in model.leases:
                    model.drain(node)
                model.booting.pop(node, None)
                model.stopping.setdefault(node, model.now)

    def decide(self) -> None:
        model = self.model
        amounts = self.fleet.amounts(kind=KIND, blocked=bool(model.queue), provider_fails=not self.provider_works)
        change = self.amount.decide(model.now, amounts)
        if change is None:
            return
        for node in to_have_back(self.fleet, change.undrain):
            del model.targets[node]
        for node in NUMBERS.free(change.add, {n.name for n in self.fleet} | model.targets.keys()):
            self.fleet.requested(node, model.now)
            assert node not in model.listed, "a node was made twice"
            self.boot(node)
        for node in to_drain(self.fleet, change.drain, NUMBERS, from_the_end=False):
            model.want_empty(node)
        assert len(model.listed) <= RULES.maximum

    @rule(count=st.integers(1, 12), seconds=st.integers(1, 30), durable=st.booleans())
    def calls_come(self, count: int, seconds: int, durable: bool) -> None:
        for _ in range(count):
            self.model.queue.append(Call(self.model.accepted, seconds, durable))
            self.model.accepted += 1

    @rule(seconds=st.integers(1, 40))
    def time_passes(self, seconds: int) -> None:
        for _ in range(seconds):
            self.model.second()
            self.look()
            self.check()

    @rule()
    def leader_dies(self) -> None:
        self.take_over()

    @rule(works=st.booleans())
    def provider_changes(self, works: bool) -> None:
        self.provider_works = works

    @rule(data=st.data())
    @precondition(lambda self: self.model.leases)
    def node_is_killed(self, data: st.DataObject) -> None:
        """kill -9; what started it starts it again."""
        node = data.draw(st.sampled_from(sorted(self.model.leases)))
        stopping = node in self.model.stopping
        self.model.end(node)
        if stopping:
            self.model.listed.discard(node)
        else:
            self.boot(node)

    @rule(data=st.data())
    @precondition(lambda self: self.model.leases)
    def operator_drains(self, data: st.DataObject) -> None:
        self.model.want_empty(data.draw(st.sampled_from(sorted(self.model.leases))), OPERATOR)

    @rule(data=st.data())
    @precondition(lambda self: self.model.targets)
    def operator_undrains(self, data: st.DataObject) -> None:
        del self.model.targets[data.draw(st.sampled_from(sorted(self.model.targets)))]

    def check(self) -> None:
        model = self.model
        running = [call.number for calls in model.running.values() for call in calls]
        waiting = [call.number for call in model.queue]
        assert sorted([*running, *waiting, *model.answers]) == list(range(model.accepted))
        for node in self.fleet:
            assert node.state is not State.REMOVED

    def teardown(self) -> None:
        """All drains undone and the provider well: every call ends, and the nodes go back to the fewest."""
        model = self.model
        model.targets = {node: target for node, target in model.targets.items() if target.by == SCALER}
        self.provider_works = True
        for _ in range(400):
            model.second()
            self.look()
        assert len(model.answers) == model.accepted
        assert len(model.listed) == RULES.minimum
        assert not model.targets
        super().teardown()


@pytest.mark.invariant("S23", "P18")
@pytest.mark.timeout(120)
class TestScaling(Scaling.TestCase):  # type: ignore[name-defined,misc]
    """Exactly one result or one error for each call; nothing is taken away while calls run on it; no node twice."""

    settings = settings(
        deadline=None,
        max_examples=60,
        stateful_step_count=30,
        phases=(Phase.explicit, Phase.reuse, Phase.generate),  # to make a failure smaller takes minutes
    )
