"""What nodes are told to keep, and when."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mayfly_proto.records import Client, FunctionTarget, NodeLease, RouterMembers
from mayfly_router.function import Function
from mayfly_router.holds import AGAIN_S, LOT, NOTHING, Holding, Holds, wanted
from mayfly_router.pool import Pool
from mayfly_router.state import State
from tests.unit.router_parts import function_of, node, route, spec

WORKER_FORGETS_S = 300.0
NODES = ("n1", "n2", "n3")


class Told:
    """A router with one function, and what it has said."""

    def __init__(self, **fields: Any) -> None:
        self.now = 1000.0
        self.state = State("r1", 1000, lambda: self.now)
        self.state.members = RouterMembers(epoch=1, members={"r1": Client(server="s", id=1)})
        for name in NODES:
            self.state.nodes[name] = node(name)
        self.said: list[tuple[str, Holding]] = []
        self.holds = Holds(self.state, self._tell)
        self.own(function_of(0, spec(**fields)))

    def own(self, function: Function) -> None:
        self.function = self.state.functions["f"] = function
        self.state.restated.add("f")

    @property
    def pool(self) -> Pool:
        assert self.function.current is not None
        return self.function.current

    def routes(self, **numbers: int) -> None:
        for name, number in numbers.items():
            instances = [f"{name}i{k}" for k in range(number)]
            self.pool.route(self.state.nodes[name], route(*instances) if number else None, self.now)
        self.state.restated.add("f")

    def target(self, **fields: Any) -> None:
        self.function.target = FunctionTarget(**fields)
        self.state.restated.add("f")

    def step(self, seconds: float = 1.0) -> list[tuple[str, Holding]]:
        """What is said in the next second."""
        self.now += seconds
        self.said.clear()
        self.holds.step(self.now)
        return sorted(self.said)

    def _tell(self, name: str, _pool: Pool, holding: Holding) -> None:
        self.said.append((name, holding))


def test_the_minimum_is_held_on_the_fewest_nodes() -> None:
    """Three of five ready instances are held: two where two are, one more elsewhere."""
    told = Told(min_instances=3)
    told.routes(n1=1, n2=2, n3=2)
    assert told.step() == [("n2", Holding(2, -1, -1)), ("n3", Holding(1, -1, -1))]
    assert told.step() == []


def test_the_first_node_keeps_the_last_instance() -> None:
    """The function's last instance has the longer window, where most are; all others have the shorter one."""
    told = Told()
    told.target(keep_alive_s=60, further_keep_alive_s=7.5)
    told.routes(n1=1, n2=2)
    assert told.step() == [("n1", Holding(0, 7500, 7500)), ("n2", Holding(0, 60000, 7500))]


def test_a_version_with_its_own_keep_alive_is_left_to_it() -> None:
    """Nothing is said of windows; of a minimum it is."""
    told = Told(keep_alive_s=30.0)
    told.target(keep_alive_s=60, further_keep_alive_s=7)
    told.routes(n1=1)
    assert told.step() == []
    told.target(minimum=1, keep_alive_s=60)
    assert told.step() == [("n1", Holding(1, -1, -1))]


def test_a_node_with_its_first_instance_is_told_within_a_second() -> None:
    """Else it would reclaim it by a window that is not the function's."""
    told = Told()
    told.target(keep_alive_s=60, further_keep_alive_s=5)
    assert told.step() == []
    told.routes(n1=1)
    assert told.step() == [("n1", Holding(0, 60000, 5000))]
    told.routes(n2=1)
    assert told.step() == [("n2", Holding(0, 5000, 5000))]


@pytest.mark.invariant("I32")
def test_what_stands_is_said_again_in_time() -> None:
    """With nobody to say anything new for an hour (the scaler is dead), no worker ever forgets what it holds."""
    told = Told(min_instances=1)
    told.target(keep_alive_s=60)
    told.routes(n1=1)
    heard = [told.now for _ in range(3600) if told.step()]
    assert heard
    assert max(later - earlier for earlier, later in pairwise(heard)) <= AGAIN_S + 1 < WORKER_FORGETS_S / 2
    assert len(heard) <= 3600 / AGAIN_S + 1


def test_what_is_wanted_no_longer_is_taken_back() -> None:
    """A target that went, a minimum that fell: said once; the windows of instances that are gone need no word."""
    told = Told()
    told.target(minimum=1, keep_alive_s=60)
    told.routes(n1=1)
    told.step()
    told.target()
    assert told.step() == [("n1", NOTHING)]
    assert told.step(AGAIN_S) == []
    told.target(keep_alive_s=60)
    told.step()
    told.routes(n1=0)
    assert told.step() == []
    assert told.step(AGAIN_S) == []


def test_another_version_takes_over() -> None:
    """The old one's instances are kept no longer, the new one's are."""
    told = Told(min_instances=1)
    told.routes(n1=1)
    told.step()
    told.function.apply({1: spec(min_instances=1), 2: spec(2, min_instances=1)}, 2, told.now)
    told.routes(n2=1)
    assert told.step() == [("n1", NOTHING), ("n2", Holding(1, -1, -1))]


def test_who_gave_a_function_away_is_silent_about_it() -> None:
    """The word is its new owner's: one that says less would make a worker reclaim what the new one keeps."""
    told = Told(min_instances=1)
    told.routes(n1=1)
    told.step()
    del told.state.functions["f"]
    assert told.step(AGAIN_S) == []
    told.own(function_of(0, spec(min_instances=1)))
    told.routes(n1=1)
    assert told.step() == [("n1", Holding(1, -1, -1))]


def test_a_node_that_connects_again_is_told_again() -> None:
    """What was said may have been lost with its connection; and so with the router's own."""
    told = Told(min_instances=1)
    told.routes(n1=1)
    told.step()
    lease = NodeLease(node="n1", epoch=1, client=Client(server="s", id=77), memory_mb=1, cores=1)
    told.state.nodes["n1"].renew(lease)
    told.state.nodes["n1"].set_adopted(True)
    told.state.restated.add("f")
    assert told.step() == [("n1", Holding(1, -1, -1))]
    told.holds.say_all_again()
    assert told.step() == [("n1", Holding(1, -1, -1))]


def test_a_node_that_does_not_answer_for_a_moment_keeps_what_it_has() -> None:
    """While it is asked whether it accepts us, what is held there stays held."""
    told = Told(min_instances=1)
    told.routes(n1=1)
    told.step()
    told.state.nodes["n1"].set_adopted(False)
    told.pool.refresh(told.pool.shares["n1"], told.now)
    told.state.restated.add("f")
    assert told.step() == []
    assert wanted(told.function) == {"n1": Holding(1, -1, -1)}


def test_the_last_router_lets_go_of_everything() -> None:
    """Workers that are told to stop as well need not wait for an owner; and nothing is held anew."""
    told = Told(min_instances=1)
    told.target(keep_alive_s=60)
    told.routes(n1=1, n2=1)
    told.step()
    told.said.clear()
    told.holds.release()
    assert told.said == [("n1", NOTHING)]
    told.routes(n2=2)
    assert told.step(AGAIN_S) == []


def test_many_functions_are_told_a_lot_at_a_time() -> None:
    """A router that starts among thousands does not stop for all of them; and none is left out, nor said twice."""
    told = Told(min_instances=1)
    for number in range(3 * LOT):
        function = Function(f"f{number}", told.state.backlog)
        function.apply({1: spec(min_instances=1)}, 1, 0)
        function.pools[1].route(told.state.nodes["n1"], route("a"), 0)
        told.state.functions[function.name] = function
        told.state.restated.add(function.name)
    assert LOT - 1 <= len(told.step()) <= LOT
    for _ in range(5):
        told.holds.go_on(told.now)
    assert len(told.said) == 3 * LOT
    assert [len(told.step(seconds)) for seconds in (AGAIN_S, 1, 1, 1)] == [LOT, LOT, LOT, 0]


class Workers:
    """They reclaim at once all that is idle and not held: the hastiest that are possible."""

    def __init__(self) -> None:
        self.have = dict.fromkeys(NODES, 0)
        self.held = dict.fromkeys(NODES, 0)

    def reclaim(self) -> None:
        for name in NODES:
            self.have[name] = min(self.have[name], self.held[name])


arrivals = st.lists(st.tuples(st.sampled_from(NODES), st.integers(1, 3), st.booleans(), st.booleans()), max_size=12)


@pytest.mark.invariant("P11")
@given(st.integers(1, 4), arrivals)
def test_a_minimum_that_moves_is_whole_at_every_moment(minimum: int, moves: list[tuple[str, int, bool, bool]]) -> None:
    """As instances come up on other nodes and nodes drain, workers that reclaim everything they are not told to keep
    never have fewer than the minimum together; not even when they reclaim what the router has just counted on."""
    told, workers = Told(min_instances=minimum), Workers()
    workers.have["n1"] = workers.held["n1"] = minimum

    def second(*, hasty: bool = False) -> None:
        told.routes(**workers.have)
        if hasty:
            workers.reclaim()
        for name, holding in told.step():
            workers.held[name] = holding.number
            workers.reclaim()
            assert sum(workers.have.values()) >= minimum

    second()
    for name, number, drains, hasty in moves:
        workers.have[name] += number
        told.state.nodes[name].draining = drains
        second(hasty=hasty)
        second()
    for _ in range(3):
        second()
    assert sum(workers.held.values()) == minimum


def test_a_node_that_drains_holds_only_what_no_other_has() -> None:
    """It has most, and the node that stays is told to keep what it has of the minimum."""
    told = Told(min_instances=2)
    told.routes(n1=3, n2=1)
    told.state.nodes["n1"].draining = True
    assert told.step() == [("n1", Holding(1, -1, -1)), ("n2", Holding(1, -1, -1))]
