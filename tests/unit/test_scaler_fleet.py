"""Where each node is in its life, told by nothing but leases, reports, targets and what the provider has."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from mayfly_proto import records, states
from mayfly_proto.records import Client, NodeLease, NodeLoad, NodeTarget
from mayfly_proto.reports import NodeReport
from mayfly_proto.states import IllegalMove
from mayfly_scaler.nodes.demand import Kind
from mayfly_scaler.nodes.fleet import OPERATOR, SCALER, Facts, Fleet
from mayfly_scaler.nodes.life import LIFE, Event, State, move
from mayfly_scaler.reports import STALE_S, Heard
from mayfly_scaler.told import decode_node

BOOT_S = 15.0
KIND = Kind(2048, 4)
settings = hypothesis_settings(deadline=None)


@dataclass
class World:
    """What is true, to be looked at by a fleet."""

    leases: dict[str, NodeLease] = field(default_factory=dict)
    reports: dict[str, Heard[NodeReport]] = field(default_factory=dict)
    targets: dict[str, NodeTarget] = field(default_factory=dict)
    listed: set[str] = field(default_factory=set)
    now: float = 100.0

    def join(self, node: str, *, epoch: int = 1, memory_mb: int = 2048) -> None:
        client = Client(server="s", id=1)
        self.leases[node] = NodeLease(node=node, epoch=epoch, client=client, memory_mb=memory_mb, cores=4)
        self.report(node)

    def drain(self, node: str, on: bool = True) -> None:
        lease = self.leases[node]
        self.leases[node] = NodeLease(
            node=node, epoch=lease.epoch, client=lease.client, memory_mb=lease.memory_mb, cores=4, draining=on
        )

    def want_empty(self, node: str, by: str = SCALER) -> None:
        self.targets[node] = NodeTarget(by=by, since="2030-01-01T00:00:00Z")

    def report(self, node: str, state: states.Node = states.Node.UP, used_mb: int = 0, epoch: int = 0) -> None:
        load = NodeLoad(
            node=node,
            epoch=epoch or self.leases[node].epoch,
            seq=1,
            memory_mb=2048,
            memory_used_mb=used_mb,
            cpu_percent=0.0,
            instances={},
            routers={},
            state=state.value,
        )
        self.reports[node] = Heard(decode_node(records.encode(load)), self.now)

    def facts(self) -> Facts:
        return Facts(self.leases, self.reports, self.targets, frozenset(self.listed))

    def look(self, fleet: Fleet, later_s: float = 0.0) -> list[tuple[str, str]]:
        """What changed, as `n1: booting → up`."""
        self.now += later_s
        return [(moved.name, moved.after.value) for moved in fleet.look(self.now, self.facts())]


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def fleet() -> Fleet:
    return Fleet(BOOT_S)


def test_life_is_a_table_without_dead_ends() -> None:
    """From every state a node can come to its end; nothing leaves it; what is not in the table raises."""
    reaches_end = {State.REMOVED}
    while more := {s for s, moves in LIFE.items() if reaches_end & set(moves.values())} - reaches_end:
        reaches_end |= more
    assert reaches_end == set(LIFE) == set(State)
    assert LIFE[State.REMOVED] == {}
    for state in State:
        for event in set(Event) - set(LIFE[state]):
            with pytest.raises(IllegalMove, match=f"{state.value}.*{event.value}"):
                move(state, event)


def test_life_of_a_node(world: World, fleet: Fleet) -> None:
    """Asked for, listed, joined, drained, empty, gone: each is seen, in order."""
    fleet.requested("n2", world.now)
    world.listed.add("n1")
    world.join("n1")
    assert world.look(fleet) == [("n1", "up")]
    world.listed.add("n2")
    assert world.look(fleet) == [("n2", "booting")]
    world.join("n2")
    assert world.look(fleet, 1) == [("n2", "up")]
    world.want_empty("n2")
    world.drain("n2")
    assert world.look(fleet, 1) == [("n2", "draining")]
    world.now += 1
    world.report("n2", states.Node.EMPTY)
    assert world.look(fleet) == [("n2", "empty")]
    del world.leases["n2"]
    assert world.look(fleet) == [("n2", "lost")]
    world.listed.discard("n2")
    assert world.look(fleet) == [("n2", "removed")]
    assert [node.name for node in fleet] == ["n1"]


def test_report_from_before_the_drain_does_not_say_empty(world: World, fleet: Fleet) -> None:
    """Empty, had back, drained again: what it said before that is not believed."""
    world.join("n1")
    world.report("n1", states.Node.EMPTY)
    world.drain("n1")
    assert world.look(fleet) == [("n1", "up"), ("n1", "draining")]
    assert world.look(fleet, 1) == []
    world.report("n1", states.Node.EMPTY)
    assert world.look(fleet) == [("n1", "empty")]


@pytest.mark.invariant("I33")
def test_silence_is_suspected_and_then_believed(world: World, fleet: Fleet) -> None:
    """No report for three seconds: suspect, still capacity, and what it said last is still asked for. No lease: lost,
    and expected back while it is listed."""
    world.listed.add("n1")
    world.join("n1")
    world.report("n1", used_mb=700)
    world.look(fleet)
    assert world.look(fleet, STALE_S + 0.1) == [("n1", "suspect")]
    amounts = fleet.amounts(kind=KIND, blocked=False, provider_fails=False)
    assert (amounts.up, amounts.silent) == (1, 1.0)
    assert [seen.load.memory_used_mb for seen in fleet.seen()] == [700]
    world.report("n1")
    assert world.look(fleet) == [("n1", "up")]
    del world.leases["n1"]
    assert world.look(fleet) == [("n1", "lost")]
    amounts = fleet.amounts(kind=KIND, blocked=False, provider_fails=False)
    assert (amounts.up, amounts.booting) == (0, 1)
    world.join("n1", epoch=2)
    assert world.look(fleet) == [("n1", "up")]


@pytest.mark.invariant("I22")
def test_node_that_does_not_come_is_given_up(world: World, fleet: Fleet) -> None:
    """After the boot's time it is no capacity on its way any more, but still the provider's; late is not too late."""
    world.listed.add("n2")
    fleet.requested("n3", world.now)
    world.look(fleet)
    assert fleet.amounts(kind=KIND, blocked=False, provider_fails=False).booting == 2
    assert sorted(world.look(fleet, BOOT_S)) == [("n2", "given up"), ("n3", "given up"), ("n3", "removed")]
    amounts = fleet.amounts(kind=KIND, blocked=False, provider_fails=False)
    assert (amounts.up, amounts.booting, amounts.held) == (0, 0, 1)
    world.join("n2")
    assert world.look(fleet) == [("n2", "up")]


def test_operators_drain_is_no_capacity_and_cannot_be_had_back(world: World, fleet: Fleet) -> None:
    """The scaler's own can. Both count for the provider's limit, from the moment that they are wanted."""
    for node in ("n1", "n2", "n3"):
        world.listed.add(node)
        world.join(node)
    world.want_empty("n2", OPERATOR)
    world.want_empty("n3", SCALER)
    world.look(fleet)
    amounts = fleet.amounts(kind=KIND, blocked=False, provider_fails=False)
    assert (amounts.up, amounts.draining, amounts.held) == (1, 1, 1)
    fleet["n3"].leaving = True
    amounts = fleet.amounts(kind=KIND, blocked=False, provider_fails=False)
    assert (amounts.draining, amounts.held) == (0, 2)


def test_worker_that_is_told_to_stop_is_no_capacity(world: World, fleet: Fleet) -> None:
    """SIGTERM: its lease says draining though nobody wrote a target."""
    world.listed.add("n1")
    world.join("n1")
    world.drain("n1")
    world.look(fleet)
    assert fleet.amounts(kind=KIND, blocked=False, provider_fails=False).up == 0


def test_node_that_joined_by_hand_is_a_fixed_part(world: World, fleet: Fleet) -> None:
    """Measured in nodes of the provider's kind; while it has none, of the kind that it says."""
    world.join("big", memory_mb=8192)
    world.look(fleet)
    assert fleet.kind(2048) == Kind(2048, 1.0)
    world.listed.add("n1")
    world.join("n1", memory_mb=1024)
    world.look(fleet)
    kind = fleet.kind(2048)
    assert kind.memory_mb == 1024
    assert fleet.amounts(kind=kind, blocked=False, provider_fails=False).fixed == 8.0
    assert [seen.lease.node for seen in fleet.seen()] == ["big", "n1"]


happenings = st.lists(
    st.tuples(
        st.sampled_from(["n1", "n2"]),
        st.sampled_from(["request", "list", "unlist", "join", "leave", "drain", "resume", "up", "empty", "target"]),
        st.floats(0, 20, allow_nan=False),
    ),
    max_size=40,
)


@settings
@given(happenings)
def test_whatever_happens_has_a_place_in_the_table(happenings: list[tuple[str, str, float]]) -> None:
    """Nothing that can be seen, in any order and after any time, is an illegal move; and a scaler that starts now
    comes, within a second, to where one that saw all of it is, but for what it cannot know: how long ago."""
    world, fleet = World(), Fleet(BOOT_S)
    for node, what, later_s in happenings:
        match what:
            case "request" if node not in fleet:
                fleet.requested(node, world.now)
            case "list":
                world.listed.add(node)
            case "unlist":
                world.listed.discard(node)
            case "join":
                world.join(node)
            case "leave":
                world.leases.pop(node, None)
            case "drain" | "resume" if node in world.leases:
                world.drain(node, what == "drain")
            case "up" | "empty" if node in world.leases:
                world.report(node, states.Node(what))
            case "target":
                world.want_empty(node)
        world.look(fleet, later_s)
    fresh = Fleet(BOOT_S)
    for _ in range(2):
        world.look(fleet, 1)
        world.look(fresh)
        world.now += 0.5
        for node in world.leases:
            world.report(node, states.Node(world.reports[node].load.state))
    world.look(fleet)
    world.look(fresh)
    assert {node.name: node.state for node in fresh if node.lease} == {n.name: n.state for n in fleet if n.lease}
    assert {node.name for node in fresh if node.listed} == {node.name for node in fleet if node.listed}
