"""What is done to nodes: every step follows from how things stand, so it does not matter who did the one before."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from mayfly_proto import states
from mayfly_scaler.nodes.drains import Act, Numbering, Step, steps, to_drain, to_have_back
from mayfly_scaler.nodes.fleet import OPERATOR, SCALER, Fleet
from tests.unit.test_scaler_fleet import BOOT_S, World

settings = hypothesis_settings(deadline=None)


@dataclass
class Cluster(World):
    """Workers and a provider that do what they are told; whoever tells them keeps nothing in here."""

    running: dict[str, int] = field(default_factory=dict)  # node → calls
    stopping: set[str] = field(default_factory=set)  # their process was told to end
    removed: list[str] = field(default_factory=list)

    def start(self, node: str, calls: int = 0) -> None:
        self.listed.add(node)
        self.join(node, epoch=1 + self.leases[node].epoch if node in self.leases else 1)
        self.running[node] = calls

    def steps(self, fleet: Fleet, topmost: str | None = None) -> list[Step]:
        return list(steps(fleet, self.targets, topmost=topmost))

    def carry_out(self, step: Step) -> None:
        match step.act:
            case Act.DRAIN | Act.RESUME:
                if step.node in self.leases and step.node not in self.stopping:
                    self.drain(step.node, step.act is Act.DRAIN)
            case Act.REMOVE:
                self.removed.append(step.node)
                self.stopping.add(step.node)
                if step.node in self.leases:
                    self.drain(step.node)
            case Act.FORGET:
                if (target := self.targets.get(step.node)) is not None and target.by == SCALER:
                    del self.targets[step.node]

    def second(self) -> None:
        """A call ends on each node; those that are told to end do when they are empty; all report."""
        self.now += 1
        for node in list(self.leases):
            self.running[node] = max(0, self.running[node] - 1)
            if node in self.stopping and not self.running[node]:
                del self.leases[node]
        for node in self.stopping - self.leases.keys():
            self.listed.discard(node)
        self.stopping &= self.listed
        for node, lease in self.leases.items():
            empty = lease.draining and not self.running[node]
            self.report(node, states.Node.EMPTY if empty else states.Node.UP, used_mb=self.running[node])


@settings
@given(st.integers(0, 30), st.sets(st.integers(0, 60)))
def test_leader_may_die_after_each_step(calls: int, deaths: set[int]) -> None:
    """Drained by the scaler: told, empty, taken away, forgotten, whichever leaders die between which of the steps. Not
    before its last call is over, and nobody else is touched."""
    cluster = Cluster()
    cluster.start("n1", calls=100)
    cluster.start("n2", calls)
    cluster.want_empty("n2")
    fleet, done = Fleet(BOOT_S), 0
    for _ in range(calls + 30):
        cluster.look(fleet)
        for step in cluster.steps(fleet):
            assert step.node == "n2"
            if step.act is Act.REMOVE and "n2" in cluster.leases:
                assert cluster.running["n2"] == 0
            cluster.carry_out(step)
            done += 1
            if done in deaths:
                fleet = Fleet(BOOT_S)
                break
        cluster.second()
    assert (cluster.listed, set(cluster.leases), cluster.targets) == ({"n1"}, {"n1"}, {})


@pytest.mark.parametrize("calls", [0, 3])
def test_operators_drain_stays_until_the_operator_undoes_it(calls: int) -> None:
    """It is told, becomes empty, and is neither taken away nor forgotten, not even when it is away for long."""
    cluster, fleet = Cluster(), Fleet(BOOT_S)
    cluster.start("n2", calls)
    cluster.want_empty("n2", OPERATOR)
    for second in range(100):
        cluster.look(fleet)
        for step in cluster.steps(fleet):
            assert step == Step(Act.DRAIN, "n2")
            cluster.carry_out(step)
        if second == 50:
            del cluster.leases["n2"]
        cluster.second()
    cluster.start("n2")
    cluster.look(fleet)
    assert cluster.steps(fleet) == [Step(Act.DRAIN, "n2")]
    cluster.carry_out(Step(Act.DRAIN, "n2"))
    del cluster.targets["n2"]
    cluster.look(fleet)
    assert cluster.steps(fleet) == [Step(Act.RESUME, "n2")]


def test_operator_takes_a_drain_over_from_the_scaler() -> None:
    """Just before it would have been taken away."""
    cluster, fleet = Cluster(), Fleet(BOOT_S)
    cluster.start("n1")
    cluster.want_empty("n1")
    cluster.drain("n1")
    cluster.look(fleet)
    cluster.second()
    cluster.look(fleet)
    assert cluster.steps(fleet) == [Step(Act.REMOVE, "n1")]
    cluster.want_empty("n1", OPERATOR)
    cluster.look(fleet)
    assert cluster.steps(fleet) == []


def test_node_that_never_came_is_taken_away() -> None:
    """And one that an operator wants empty is not, though it be silent for ever."""
    cluster, fleet = Cluster(), Fleet(BOOT_S)
    cluster.listed |= {"n2", "n3"}
    cluster.want_empty("n3", OPERATOR)
    cluster.look(fleet)
    assert cluster.steps(fleet) == []
    cluster.look(fleet, BOOT_S)
    assert cluster.steps(fleet) == [Step(Act.REMOVE, "n2")]


def test_nothing_is_forgotten_before_the_provider_has_spoken() -> None:
    """A new leader whose provider does not answer: what drains may well still be there."""
    cluster, fleet = Cluster(), Fleet(BOOT_S)
    cluster.want_empty("n2")
    cluster.look(fleet)
    assert list(steps(fleet, cluster.targets, known=False)) == []
    assert cluster.steps(fleet) == [Step(Act.FORGET, "n2")]


def test_only_the_last_one_goes_where_only_that_can() -> None:
    """n2 is empty first, and waits for n3: the provider would take n3 away in its place."""
    cluster, fleet = Cluster(), Fleet(BOOT_S)
    for node, calls in (("n1", 9), ("n2", 0), ("n3", 3)):
        cluster.start(node, calls)
    cluster.want_empty("n2")
    cluster.want_empty("n3")
    gone: list[str] = []
    for _ in range(20):
        cluster.look(fleet)
        for step in cluster.steps(fleet, topmost=max(cluster.listed)):
            cluster.carry_out(step)
        cluster.second()
        gone += {"n1", "n2", "n3"} - cluster.listed - set(gone)
    assert gone == ["n3", "n2"]


numbers = st.integers(0, 40)


@settings
@given(numbers, st.sets(numbers), st.sampled_from([Numbering("n"), Numbering("mayfly-worker-", first=0)]))
def test_lowest_free_numbers_are_given_out(count: int, taken: set[int], numbering: Numbering) -> None:
    """Each once, none that is taken, none left out below them."""
    names = {numbering.name(number) for number in taken}
    free = numbering.free(count, names)
    assert len(free) == count
    given_out = [numbering.number(name) for name in free]
    assert given_out == sorted(given_out)
    assert not set(free) & names
    assert set(range(numbering.first, max(given_out, default=0))) <= set(given_out) | taken


def test_foreign_names_have_no_number() -> None:
    """Whatever is joined by hand ranks below the provider's."""
    numbering = Numbering("n")
    assert [numbering.number(name) for name in ("n1", "n10", "node", "n", "x1", "n1x")] == [1, 10, 0, 0, 0, 0]


def fleet_of(cluster: Cluster) -> Fleet:
    fleet = Fleet(BOOT_S)
    cluster.look(fleet)
    return fleet


def test_highest_number_is_drained_first() -> None:
    """n10 before n9; none that is drained already, lost, or joined by hand."""
    cluster = Cluster()
    for number in (1, 2, 9, 10):
        cluster.start(f"n{number}")
    cluster.join("n99")
    cluster.want_empty("n10", OPERATOR)
    fleet = fleet_of(cluster)
    assert to_drain(fleet, 2, Numbering("n"), from_the_end=False) == ["n9", "n2"]
    assert to_drain(fleet, 2, Numbering("n"), from_the_end=True) == []
    cluster.want_empty("n10", SCALER)
    assert to_drain(fleet_of(cluster), 9, Numbering("n"), from_the_end=True) == ["n9", "n2", "n1"]


@pytest.mark.invariant("S20")
def test_fullest_comes_back_first() -> None:
    """What still runs there need not move. Not one that is on its way out, nor the operator's."""
    cluster = Cluster()
    for number, used in ((1, 1), (2, 5), (3, 3), (4, 9), (5, 8)):
        cluster.start(f"n{number}", used)
        cluster.want_empty(f"n{number}", OPERATOR if number == 4 else SCALER)
    cluster.second()
    fleet = fleet_of(cluster)
    fleet["n5"].leaving = True
    assert to_have_back(fleet, 2) == ["n2", "n3"]
    assert to_have_back(fleet, 9) == ["n2", "n3", "n1"]
