"""When a version leaves a node that is to be empty."""

from typing import Any

import pytest

from mayfly_proto.records import FunctionTarget
from mayfly_router import drains
from mayfly_router.function import Function, Stopping
from mayfly_router.nodes import Node
from mayfly_router.pool import Pool
from tests.unit.router_parts import call, function_of, node, route, spec


class Cluster:
    """A function on n1, which drains; n2 stays, unless a test takes it away."""

    def __init__(self, instances: int = 1, **fields: Any) -> None:
        self.nodes = {name: node(name) for name in ("n1", "n2")}
        self.function: Function = function_of(0, spec(**fields))
        self.pool: Pool = self.function.pools[1]
        self.routes(n1=instances)
        self.nodes["n1"].draining = True

    def routes(self, **numbers: int) -> None:
        for name, number in numbers.items():
            instances = [f"{name}i{k}" for k in range(number)]
            self.pool.route(self.nodes[name], route(*instances) if number else None, 0)

    def leave(self, now: float = 0) -> list[str]:
        """The nodes that are told to stop everything."""
        stops = drains.leave(self.nodes.values(), {"f": self.function}, now)
        assert all(stop == Stopping(self.pool, stop.node, -1) for stop in stops)
        return [stop.node for stop in stops]

    def ordered(self) -> int:
        return sum(number for _, number in self.function.plan(0).orders)


@pytest.mark.invariant("S24")
def test_without_a_minimum_it_leaves_at_once() -> None:
    """Nothing is sent there any more, and the next call that finds no slot has an instance ordered elsewhere."""
    cluster = Cluster()
    assert cluster.leave() == ["n1"]
    assert cluster.pool.take(0) is None
    cluster.pool.wait(call("1"), 0)
    assert cluster.ordered() == 1
    assert cluster.leave() == [], "said once"


@pytest.mark.invariant("S24")
def test_a_minimum_is_ready_elsewhere_first() -> None:
    """It is ordered although it stands, and until it is ready there calls are sent to the node that drains."""
    cluster = Cluster(2, min_instances=2)
    assert cluster.ordered() == 2
    cluster.pool.starts.order(["a", "b"], 0)
    assert cluster.ordered() == 0
    assert cluster.leave() == []
    cluster.pool.starts.ready(["a"], 1)
    cluster.routes(n2=1)
    assert cluster.leave() == []
    share = cluster.pool.take(1)
    assert share is not None
    cluster.pool.starts.ready(["b"], 1)
    cluster.routes(n2=2)
    assert cluster.leave() == ["n1"]
    taken = [cluster.pool.take(2) for _ in range(3)]
    assert {share.node.name for share in taken if share is not None} == {"n2"}


def test_the_scaler_s_minimum_counts_as_much() -> None:
    """What the function has by its target is replaced as well."""
    cluster = Cluster()
    cluster.function.target = FunctionTarget(minimum=1)
    assert cluster.leave() == []
    assert cluster.ordered() == 1


def test_what_runs_there_is_left_to_end() -> None:
    """A call in its instance keeps its place in all counts until it is done."""
    cluster = Cluster(1, max_instances=1)
    share = cluster.pool.take(0)
    assert share is not None
    assert cluster.leave() == ["n1"]
    cluster.pool.wait(call("1"), 0)
    assert cluster.ordered() == 0, "the limit counts it"
    cluster.routes(n1=0)
    assert cluster.ordered() == 0
    assert cluster.pool.release(share, 5) is None
    assert cluster.ordered() == 1


def test_a_limit_that_leaves_no_room_lets_it_leave_first() -> None:
    """One instance, and no more than one: it can only be elsewhere when it is here no longer."""
    cluster = Cluster(1, min_instances=1, max_instances=1)
    assert cluster.ordered() == 0
    assert cluster.leave() == ["n1"]
    cluster.routes(n1=0)
    assert cluster.ordered() == 1


def test_nothing_is_left_while_something_may_come_up_elsewhere() -> None:
    """With room for some of the minimum that is started first, and the rest leaves when it is ready."""
    cluster = Cluster(2, min_instances=2, max_instances=3)
    assert cluster.ordered() == 1
    cluster.pool.starts.order(["a"], 0)
    assert cluster.leave() == []
    cluster.pool.starts.ready(["a"], 1)
    cluster.routes(n2=1)
    assert cluster.leave() == ["n1"]


@pytest.mark.invariant("S24")
def test_with_no_other_node_service_goes_on() -> None:
    """A minimum with nowhere to go stays where it is, until the worker ends it."""
    cluster = Cluster(1, min_instances=1, max_instances=1)
    cluster.nodes["n2"].draining = True
    assert cluster.leave() == []
    cluster.nodes["n2"].draining = False
    cluster.nodes["n2"].set_adopted(False)
    assert cluster.leave() == []
    assert cluster.pool.take(0) is not None


def test_an_older_version_needs_no_place_elsewhere() -> None:
    """A minimum is of the current version."""
    cluster = Cluster(1, min_instances=1)
    cluster.pool.wait(call("pinned", pinned=1), 0)
    cluster.function.apply({1: spec(min_instances=1), 2: spec(2, min_instances=1)}, 2, 0)
    assert cluster.leave() == ["n1"]


def test_the_word_to_stop_is_repeated_while_instances_show() -> None:
    """It may be lost with a connection; when the Route Cache has none there any more, it was heard."""
    cluster = Cluster()
    share = cluster.pool.take(0)
    assert cluster.leave(0) == ["n1"]
    assert cluster.leave(drains.AGAIN_S - 0.1) == []
    assert cluster.leave(drains.AGAIN_S) == ["n1"]
    cluster.routes(n1=0)
    assert share is not None and share.busy == 1
    assert cluster.leave(3 * drains.AGAIN_S) == []


def test_a_start_on_a_node_that_drains_is_not_counted_on() -> None:
    """It may come to nothing: calls have another one ordered, and the limit counts both."""
    cluster = Cluster(0, max_instances=2)
    cluster.pool.wait(call("1"), 0)
    cluster.pool.starts.order(["a"], 0)
    cluster.pool.starts.placed("a", "n1", 0)
    assert cluster.ordered() == 0
    cluster.pool.starts.on_draining("n1", True)
    assert cluster.ordered() == 1
    cluster.pool.starts.order(["b"], 0)
    assert cluster.function.room(0) <= 0
    cluster.pool.starts.on_draining("n1", False)
    assert cluster.pool.starts.covering == 2


def test_a_node_that_drains_no_longer_is_used_again() -> None:
    """Its instances that are still there take calls."""
    cluster = Cluster()
    assert cluster.leave() == ["n1"]
    again: Node = cluster.nodes["n1"]
    again.draining = False
    again.left.clear()
    cluster.pool.refresh(cluster.pool.shares["n1"], 1)
    assert cluster.pool.take(1) is not None
    assert cluster.leave() == []
