"""Where instances go: properties of the pure placement, and what the activator believes of its nodes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mayfly_activator.fleet import KNOWN_S, Fleet, Order
from mayfly_activator.placement import FILL, Candidate, place, rank
from mayfly_proto import records
from mayfly_proto.messages import Refusal
from mayfly_proto.records import Client, NodeLease, NodeLoad, Route, VersionLoad
from tests.unit.steps import steps


def nodes(*used: int, memory_mb: int = 1000, slots: int = 99) -> list[Candidate]:
    return [Candidate(f"n{k}", memory_mb, mb, slots) for k, mb in enumerate(used, 1)]


def ids(number: int) -> list[str]:
    return [f"i{k}" for k in range(number)]


def spread(placement: dict[str, list[str]]) -> dict[str, int]:
    return {name: len(instances) for name, instances in placement.items()}


def test_nodes_fill_in_their_natural_order() -> None:
    """n2 comes before n10, and is filled to 90 % before it."""
    names = ["n10", "n2", "n1"]
    assert sorted(names, key=rank) == ["n1", "n2", "n10"]
    placement = place([Candidate(name, 1000, 0, 99) for name in names], ids(3), 450)
    assert spread(placement.nodes) == {"n1": 2, "n2": 1}


def test_a_batch_counts_its_own_picks() -> None:
    """Ten instances in one order do not all go where there was room for four."""
    placement = place(nodes(0, 0, 0, memory_mb=400), ids(10), 100)
    assert sum(spread(placement.nodes).values()) == 10
    assert max(spread(placement.nodes).values()) <= 4


def test_one_function_has_at_most_half_of_its_instances_on_a_node() -> None:
    """From the fourth instance on, a lost node does not take all of a function while others have room."""
    placement = place(nodes(0, 0, 0), ids(8), 10)
    assert max(spread(placement.nodes).values()) <= 5
    assert len(placement.nodes) >= 2


def test_a_single_node_takes_everything() -> None:
    """The rule of half gives way where there is no other node."""
    assert spread(place(nodes(0), ids(8), 10).nodes) == {"n1": 8}


def test_the_last_tenth_is_used_before_anyone_waits() -> None:
    """Above 90 % only when every node is."""
    assert spread(place(nodes(850, 850), ids(2), 100).nodes) == {"n1": 1, "n2": 1}


def test_a_node_that_knows_the_version_comes_first_among_those_needed() -> None:
    """Code and template are there; but it is no reason to keep a node that the load does not need."""
    busy = nodes(850, 100, 0)
    busy[1].familiar = True
    assert list(place(busy, ids(1), 40).nodes) == ["n2"]
    idle = nodes(0, 0)
    idle[1].familiar = True
    assert list(place(idle, ids(1), 40).nodes) == ["n1"]


def test_where_nothing_fits_a_node_that_can_evict_is_asked() -> None:
    """Idle instances of other functions do not keep a function from starting: their node makes room or refuses."""
    full = nodes(1000, 1000, 1000)
    full[1] = Candidate("n2", 1000, 1000, 99, idle=lambda: 2)
    placement = place(full, ids(3), 100)
    assert spread(placement.nodes) == {"n2": 2}
    assert (placement.rest, placement.reason) == (["i2"], Refusal.NO_ROOM)


def test_the_reason_says_whether_there_is_hope() -> None:
    """No nodes, no memory, or only no start slot for the moment."""
    assert place([], ids(1), 10).reason == Refusal.NO_NODES
    assert place(nodes(1000), ids(1), 10).reason == Refusal.NO_ROOM
    assert place(nodes(0, slots=0), ids(1), 10).reason == Refusal.SLOTS


def test_a_node_with_busy_processors_is_the_last_resort() -> None:
    """Memory is there, time is not: others are filled to the brim, and may evict, before it is asked; but nobody waits
    because of it."""
    busy, cool = Candidate("n1", 1000, 0, 99, cpu_percent=95.0), Candidate("n2", 1000, 850, 99, idle=lambda: 1)
    placement = place([busy, cool], ids(4), 100)
    assert placement.nodes == {"n2": ["i0", "i1"], "n1": ["i2", "i3"]}


def test_labels_narrow_the_choice_and_say_so() -> None:
    """A node must have all of them; that none has is another thing than that none has room, or that there is none."""
    plain, gpu = Candidate("n1", 1000, 0, 99), Candidate("n2", 150, 0, 99, labels={"gpu": "yes", "zone": "a"})
    assert place([plain, gpu], ids(1), 100, {"gpu": "yes"}).nodes == {"n2": ["i0"]}
    assert place([plain, gpu], ids(1), 100, {"gpu": "yes"}).reason == Refusal.NO_ROOM
    assert place([plain, gpu], ids(1), 100, {"gpu": "no"}).reason == Refusal.LABELS
    assert place([], ids(1), 100, {"gpu": "no"}).reason == Refusal.NO_NODES


FLEETS = st.lists(
    st.builds(
        lambda size, used, slots, cpu_percent, labels: (size, used, slots, cpu_percent, labels),
        st.integers(100, 4000),
        st.integers(0, 4000),
        st.integers(0, 20),
        st.sampled_from([10.0, 99.0]),
        st.sampled_from([{}, {"gpu": "yes"}]),
    ),
    max_size=30,
)


def candidates(fleet: list[tuple[int, int, int, float, dict[str, str]]]) -> list[Candidate]:
    return [
        Candidate(f"n{k}", size, used, slots, cpu_percent=cpu_percent, labels=labels)
        for k, (size, used, slots, cpu_percent, labels) in enumerate(fleet)
    ]


@pytest.mark.invariant("P26")
@given(FLEETS, st.integers(1, 500), st.sampled_from([{}, {"gpu": "yes"}]))
def test_an_instance_goes_to_the_lowest_rank_below_the_fill_and_above_it_only_as_last_resort(
    fleet: list[tuple[int, int, int, float, dict[str, str]]], memory_mb: int, labels: dict[str, str]
) -> None:
    """It fits; cool nodes before busy ones; below 90 % before above; and of those the first one."""
    placement = place(candidates(fleet), ids(1), memory_mb, labels)
    fitting = [n for n in candidates(fleet) if n.has(labels) and n.start_slots > 0 and n.fits(memory_mb)]
    tiers = [
        [node.name for node in fitting if node.busy is busy and node.fits(memory_mb, fill)]
        for busy in (False, True)
        for fill in (FILL, 1.0)
    ]
    best = next((tier[0] for tier in tiers if tier), None)
    assert list(placement.nodes) == ([best] if best else [])


@given(FLEETS, st.integers(0, 40), st.integers(1, 500), st.sampled_from([{}, {"gpu": "yes"}]))
def test_no_node_is_overfilled_and_no_instance_placed_twice(
    fleet: list[tuple[int, int, int, float, dict[str, str]]], number: int, memory_mb: int, labels: dict[str, str]
) -> None:
    """Memory, start slots and labels hold for every node; all instances are placed or left over, each once; a busy
    node, or one above 90 %, gets one only when none better would take it."""
    nodes = candidates(fleet)
    before = {node.name: (node.used_mb, node.start_slots) for node in nodes}
    placement = place(nodes, ids(number), memory_mb, labels)
    placed = [instance for instances in placement.nodes.values() for instance in instances]
    assert sorted(placed + placement.rest) == sorted(ids(number))
    able = [node for node in nodes if node.start_slots > 0 and node.has(labels)]
    for node in nodes:
        taken = len(placement.nodes.get(node.name, []))
        used, slots = before[node.name]
        assert taken <= slots
        assert not taken or (node.has(labels) and used + taken * memory_mb <= node.memory_mb)
        if taken and node.busy:
            assert not [other for other in able if not other.busy and other.fits(memory_mb)]
        if taken and node.used_mb > node.memory_mb * FILL:
            assert not [other for other in able if other.busy <= node.busy and other.fits(memory_mb, FILL)]
    if placement.rest:
        assert not [node for node in able if node.fits(memory_mb)]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def lease(name: str, *, draining: bool = False, epoch: int = 1) -> bytes:
    return records.encode(
        NodeLease(node=name, epoch=epoch, client=Client(server="s", id=1), memory_mb=1000, cores=2, draining=draining)
    )


def load(
    name: str,
    used: int,
    *,
    epoch: int = 1,
    cpu_percent: float = 0.0,
    state: str = "up",
    **instances: dict[str, VersionLoad],
) -> bytes:
    return records.encode(
        NodeLoad(
            node=name,
            epoch=epoch,
            seq=1,
            memory_mb=1000,
            memory_used_mb=used,
            cpu_percent=cpu_percent,
            instances=instances,
            routers={},
            state=state,
        )
    )


def test_own_orders_count_until_the_node_reports_them() -> None:
    """Two orders within one second do not both see the same free memory."""
    clock = Clock()
    fleet = Fleet(clock)
    fleet.on_lease("n1", lease("n1"))
    order = Order("f", 1, ("a", "b", "c"), 200)
    fleet.ask("n1", order)
    assert fleet.candidates("f", 1)[0].used_mb == 600
    fleet.on_load(b"", b"", None, load("n1", 0))
    assert fleet.candidates("f", 1)[0].used_mb == 600, "not answered: the report cannot have it"
    fleet.answered("n1", order, ["a", "b"])
    assert fleet.candidates("f", 1)[0].used_mb == 400
    fleet.on_load(b"", b"", None, load("n1", 400, f={"1": VersionLoad(starting=2)}))
    candidate = fleet.candidates("f", 1)[0]
    assert (candidate.used_mb, candidate.instances, candidate.start_slots) == (400, 2, 14)


def test_start_slots_are_free_as_soon_as_instances_are_ready() -> None:
    """The Route Cache tells it in milliseconds; to wait for the next report would allow one wave a second."""
    fleet = Fleet(Clock())
    fleet.on_lease("n1", lease("n1"))
    order = Order("f", 1, tuple(f"i{k}" for k in range(16)), 1)
    fleet.ask("n1", order)
    fleet.answered("n1", order, order.instances)
    assert fleet.candidates("f", 1)[0].start_slots == 0
    fleet.on_route("n1.1.f", records.encode(Route(epoch=1, instances=["i0", "i1"], slots=2)))
    assert fleet.candidates("f", 1)[0].start_slots == 2
    fleet.on_load(b"", b"", None, load("n1", 16, f={"1": VersionLoad(ready=2, starting=14)}))
    assert fleet.candidates("f", 1)[0].start_slots == 2
    fleet.on_load(b"", b"", None, load("n1", 2, f={"1": VersionLoad(ready=2)}))
    assert fleet.candidates("f", 1)[0].start_slots == 16, "the others failed"


def test_silent_draining_and_excluded_nodes_get_nothing() -> None:
    """A report older than three seconds is not placed by; nor is a node that drains or has refused already."""
    clock = Clock()
    fleet = Fleet(clock)
    for name, draining in (("n1", False), ("n2", True), ("n3", False), ("n4", False)):
        fleet.on_lease(name, lease(name, draining=draining))
    clock.now = 3.5
    fleet.on_load(b"", b"", None, load("n1", 0))
    fleet.on_load(b"", b"", None, load("n3", 0))
    fleet.on_load(b"", b"", None, load("n4", 0, epoch=7))
    assert [node.name for node in fleet.candidates("f", 1, {"n3"})] == ["n1"]


def test_idle_instances_of_others_may_be_evicted_and_own_ones_not() -> None:
    """What a node could give up for this version."""
    fleet = Fleet(Clock())
    fleet.on_lease("n1", lease("n1"))
    counts = {"f": {"1": VersionLoad(ready=5, busy=1), "2": VersionLoad(ready=2)}, "g": {"1": VersionLoad(ready=3)}}
    fleet.on_load(b"", b"", None, load("n1", 900, **counts))
    assert fleet.candidates("f", 1)[0].idle == 5


def test_a_node_says_that_it_drains_by_its_lease_or_its_report() -> None:
    """Whichever comes first counts; it is back when both say so."""
    fleet = Fleet(Clock())
    fleet.on_lease("n1", lease("n1"))
    fleet.on_load(b"", b"", None, load("n1", 0, state="draining"))
    assert fleet.candidates("f", 1) == []
    fleet.on_load(b"", b"", None, load("n1", 0, state="empty"))
    assert fleet.candidates("f", 1) == []
    fleet.on_load(b"", b"", None, load("n1", 0))
    assert len(fleet.candidates("f", 1)) == 1


def test_a_node_that_had_the_version_lately_is_familiar() -> None:
    """The code is there after the last instance has gone, and a template for a quarter of an hour; another version,
    and a worker that was started anew, know nothing of it."""
    clock = Clock()
    fleet = Fleet(clock)
    fleet.on_lease("n1", lease("n1"))
    route = records.encode(Route(epoch=1, instances=["i0"], slots=1))
    fleet.on_route("n1.1.f", route)
    clock.now = 1.0
    fleet.on_route("n1.1.f", None)
    assert fleet.candidates("f", 1)[0].familiar
    assert not fleet.candidates("f", 2)[0].familiar
    clock.now = KNOWN_S + 1.5
    fleet.on_load(b"", b"", None, load("n1", 0))
    assert not fleet.candidates("f", 1)[0].familiar
    fleet.on_route("n1.1.f", route)
    assert fleet.candidates("f", 1)[0].familiar
    fleet.on_lease("n1", lease("n1", epoch=2))
    assert not fleet.candidates("f", 1)[0].familiar


def test_one_busy_second_makes_no_busy_node() -> None:
    """A burst of starts takes all processors for a moment; a node is busy when it stays so."""
    fleet = Fleet(Clock())
    fleet.on_lease("n1", lease("n1"))
    fleet.on_load(b"", b"", None, load("n1", 0, cpu_percent=100.0))
    assert not fleet.candidates("f", 1)[0].busy
    for _ in range(9):
        fleet.on_load(b"", b"", None, load("n1", 0, cpu_percent=100.0))
    assert fleet.candidates("f", 1)[0].busy


def test_instances_are_counted_where_the_route_cache_has_them() -> None:
    """Ready ones and those that start by our own orders; what a node had in a former life is nothing."""
    fleet = Fleet(Clock())
    fleet.on_lease("n1", lease("n1"))
    fleet.on_route("n1.1.f", records.encode(Route(epoch=1, instances=["a", "b"], slots=2)))
    fleet.on_route("n1.2.f", records.encode(Route(epoch=1, instances=["c"], slots=1)))
    fleet.ask("n1", Order("f", 2, ("d",), 10))
    assert fleet.candidates("f", 1)[0].instances == 4
    fleet.on_route("n1.1.f", None)
    assert fleet.candidates("f", 1)[0].instances == 2
    fleet.on_lease("n1", lease("n1", epoch=2))
    assert fleet.candidates("f", 1)[0].instances == 0


@pytest.mark.parametrize("size", [10, 1000])
def test_an_order_and_a_report_cost_the_same_however_much_a_node_has(size: int) -> None:
    """Counted in lines that run; each second a thousand nodes may report."""
    costs = []
    for functions in (1, size):
        fleet = Fleet(Clock())
        fleet.on_lease("n1", lease("n1"))
        report = load("n1", 0, **{f"f{k}": {"1": VersionLoad(ready=1)} for k in range(functions)})
        costs.append(
            (
                steps(lambda fleet=fleet, report=report: fleet.on_load(b"", b"", None, report)),
                steps(lambda fleet=fleet: place(fleet.candidates("f0", 1), ids(1), 10)),
            )
        )
    assert costs[0] == costs[1]


def test_the_nodes_behind_those_that_are_needed_are_not_gone_through_for_each_instance() -> None:
    """A thousand nodes, of which three are in use: each further instance of a burst costs what it does on ten nodes."""

    def burst(count: int, instances: int) -> int:
        fleet = nodes(*[100] * 3, *[0] * (count - 3))
        return steps(lambda: place(fleet, ids(instances), 1))

    burst(1000, 1)  # what nodes are called is looked at once
    assert burst(1000, 60) - burst(1000, 10) == burst(10, 60) - burst(10, 10)
