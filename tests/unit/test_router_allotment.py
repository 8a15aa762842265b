"""What a function does about its share of a full cluster: who gives way, and when it takes back."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mayfly_proto.messages import Refusal
from mayfly_proto.records import Client, NodeLease, Package, Route, Shares, VersionSpec
from mayfly_router.allotment import LINGER_S, VALID_S, Allotments
from mayfly_router.backlog import Backlog
from mayfly_router.call import Call
from mayfly_router.function import Function, Stopping
from mayfly_router.nodes import Node
from mayfly_router.pool import Pool
from mayfly_router.share import Share
from mayfly_router.shortage import Shortage
from mayfly_router.yielding import UNHEARD_S


def spec(version: int = 1, **fields: Any) -> VersionSpec:
    package = Package(sha256="0", size=1, format="py", filename="f.py")
    given: dict[str, Any] = {"max_instances": 100, "activation": "eager"}
    return VersionSpec(
        name="f", version=version, runtime="python", handler="f:f", package=package, created="", **(given | fields)
    )


class Rig:
    """A function with so many instances on each node, so many of whose slots are in use."""

    def __init__(self, *instances: int, busy: tuple[int, ...] = (), **fields: Any) -> None:
        self.now = 100.0
        self.said = Allotments()
        self.function = Function("f", Backlog(10**6), self.said)
        self.function.apply({1: spec(**fields)}, 1, self.now)
        self.nodes: list[Node] = []
        self.listed: list[list[str]] = []
        for k, number in enumerate(instances, 1):
            node = Node(f"n{k}")
            node.renew(NodeLease(node=node.name, epoch=1, client=Client(server="s", id=k), memory_mb=1, cores=1))
            node.set_adopted(True)
            self.nodes.append(node)
            self.listed.append([f"i{k}-{m}" for m in range(number)])
            self.route(k - 1)
        for k, number in enumerate(busy):
            for _ in range(number):
                self.pool.occupy(self.nodes[k], self.now)

    @property
    def pool(self) -> Pool:
        assert self.function.current is not None
        return self.function.current

    def share(self, k: int = 0) -> Share:
        return self.pool.shares[self.nodes[k].name]

    def route(self, k: int = 0) -> None:
        """The Route Cache's word on a node."""
        ids = self.listed[k]
        route = Route(epoch=1, instances=list(ids), slots=len(ids) * self.pool.spec.concurrency)
        self.pool.route(self.nodes[k], route if ids else None, self.now)

    def stops(self, count: int, k: int = 0) -> None:
        """The node has stopped so many."""
        del self.listed[k][:count]
        self.route(k)

    def hear(self, share: int | None, epoch: int = 1) -> list[Stopping]:
        self.said.hear(Shares(epoch=epoch, shares={} if share is None else {"f": share}), self.now)
        return self.function.trim(self.now)

    def queue(self, number: int) -> None:
        self.pool.put_back([Call(f"q{n}", "_INBOX.q.1", None, b"", self.now) for n in range(number)], self.now)

    def ordered(self) -> int:
        return sum(count for _, count in self.function.plan(self.now).orders)


def test_idle_instances_give_way_at_once() -> None:
    """Three above the share, all idle: the node is told to stop three, and only once."""
    rig = Rig(5)
    assert rig.hear(2) == [Stopping(rig.pool, "n1", 3)]
    assert rig.hear(2) == []
    assert (rig.pool.slots, rig.pool.ready) == (2, 2)
    rig.stops(3)
    assert (rig.pool.slots, rig.share().yielding, rig.share().told) == (2, 0, 0)
    assert rig.hear(2) == []


def test_what_is_above_the_share_is_not_stopped_for_another_reason_too() -> None:
    """A plan made at that moment stops those three and no others."""
    rig = Rig(5)
    rig.said.hear(Shares(epoch=1, shares={"f": 2}), rig.now)
    assert rig.function.plan(rig.now).stops == [Stopping(rig.pool, "n1", 3)]


@pytest.mark.invariant("S29")
def test_busy_instances_give_way_as_they_are_free_and_no_call_is_cut_off() -> None:
    """All four are busy and two are to go: nothing is stopped before a call has ended; what is free then is given to
    no other call, though many wait, and is stopped. The other two go on."""
    rig = Rig(4, busy=(4,))
    rig.queue(10)
    assert rig.hear(2) == []
    for _ in range(2):
        assert rig.pool.release(rig.share(), rig.now) is None
        assert rig.function.trim(rig.now) == [Stopping(rig.pool, "n1", 1)]
    rig.stops(2)
    assert rig.pool.release(rig.share(), rig.now) is not None
    assert (rig.share().busy, rig.share().slots) == (2, 2)


def test_instances_of_many_slots_are_chosen_by_their_node() -> None:
    """Where an instance takes ten calls at once the node is told now, and sends no more into those that go."""
    rig = Rig(4, busy=(40,), concurrency=10)
    rig.queue(10)
    assert rig.hear(1) == [Stopping(rig.pool, "n1", 3)]
    assert rig.hear(1) == []
    rig.stops(3)
    assert all(rig.pool.release(rig.share(), rig.now) is None for _ in range(30))
    assert rig.pool.release(rig.share(), rig.now) is not None


def test_whichever_is_free_first_goes() -> None:
    """One of 31 instances on two nodes is to go: the first that is free, wherever that is."""
    for k in (0, 1):
        rig = Rig(30, 1, busy=(30, 1))
        rig.queue(100)
        assert rig.hear(30) == []
        assert rig.pool.release(rig.share(k), rig.now) is None
        assert rig.function.trim(rig.now) == [Stopping(rig.pool, f"n{k + 1}", 1)]
        assert rig.pool.release(rig.share(0), rig.now) is not None


def test_an_idle_one_goes_for_one_that_is_busy() -> None:
    """While calls run in all that are there, another instance is ready: it goes, and nobody has to wait for them."""
    rig = Rig(2, busy=(2,))
    assert rig.hear(1) == []
    rig.listed[0].append("new")
    rig.route()
    assert rig.hear(2) == [Stopping(rig.pool, "n1", 1)]


def test_who_is_to_go_of_many_slots_is_spread_over_the_nodes() -> None:
    """Of 6 and 2 instances that take ten calls each, 3 and 1 are to go."""
    rig = Rig(6, 2, busy=(60, 20), concurrency=10)
    assert rig.hear(4) == [Stopping(rig.pool, "n1", 3), Stopping(rig.pool, "n2", 1)]


def test_older_versions_give_way_first() -> None:
    """Idle instances that are kept for who asks for an older version go before those of the current one."""
    rig = Rig(3)
    older = rig.pool
    rig.function.apply({1: older.spec, 2: spec(2)}, 2, rig.now)
    older.route(rig.nodes[0], Route(epoch=1, instances=["a", "b"], slots=2), rig.now)
    rig.listed[0] = ["c", "d"]
    rig.route()
    assert rig.hear(3) == [Stopping(older, "n1", 1)]


def test_nothing_is_ordered_at_the_share() -> None:
    """At the share the queue gets nothing new, and the scaler hears of it; below, as much as the share allows."""
    rig = Rig(2, busy=(2,))
    rig.queue(50)
    rig.hear(2)
    plan = rig.function.plan(rig.now)
    assert (plan.orders, plan.stops) == ([], [])
    assert [(pool.name, count > 0) for pool, count in plan.denied] == [("f", True)]
    rig.hear(5)
    assert rig.function.plan(rig.now).orders == [(rig.pool, 3)]


def test_the_scalers_word_holds_for_three_seconds() -> None:
    """A scaler that is gone limits nobody: after 3 s the function takes what it can get."""
    rig = Rig(2, busy=(2,))
    rig.queue(50)
    rig.hear(2)
    rig.now += VALID_S
    assert rig.ordered() == 0
    rig.now += 0.01
    assert rig.ordered() > 0


def test_who_is_not_named_may_have_what_it_likes() -> None:
    """A word about others only lifts the limit, and who was to go and still runs may stay."""
    rig = Rig(4, busy=(4,))
    rig.queue(50)
    rig.hear(2)
    assert rig.pool.release(rig.share(), rig.now) is None
    assert rig.hear(None) == [Stopping(rig.pool, "n1", 1)], "it is not known any more whether it is idle"
    assert rig.pool.release(rig.share(), rig.now) is not None
    assert rig.ordered() > 0


def test_an_instance_is_never_too_many() -> None:
    """A share of none leaves one, for the call that the scaler has not heard of."""
    rig = Rig(3)
    assert rig.hear(0) == [Stopping(rig.pool, "n1", 2)]
    nothing = Rig()
    nothing.queue(5)
    nothing.hear(0)
    assert nothing.ordered() == 1


def test_a_scaler_that_led_once_is_not_heard() -> None:
    """The word of an older epoch changes nothing, unless nothing else has been heard for a while."""
    rig = Rig(5)
    assert rig.hear(4, epoch=7) == [Stopping(rig.pool, "n1", 1)]
    assert rig.hear(1, epoch=6) == []
    rig.stops(1)
    rig.now += VALID_S + 0.01
    assert rig.hear(1, epoch=1) == [Stopping(rig.pool, "n1", 3)]


def test_a_stop_that_was_not_heard_is_said_again() -> None:
    """A lost word does not keep the place: after a while it is said once more."""
    rig = Rig(3)
    assert rig.hear(1) == [Stopping(rig.pool, "n1", 2)]
    rig.now += UNHEARD_S / 2
    assert rig.hear(1) == []
    rig.now += UNHEARD_S
    assert rig.hear(1) == [Stopping(rig.pool, "n1", 2)]


def test_an_instance_that_comes_too_late_is_stopped_before_its_first_call() -> None:
    """What was ordered before the word came, and is ready after it, is no exception."""
    rig = Rig(2, busy=(2,))
    rig.queue(5)
    assert rig.hear(2) == []
    rig.listed[0].append("late")
    rig.route()
    assert rig.function.trim(rig.now) == [Stopping(rig.pool, "n1", 1)]
    assert rig.pool.match(rig.now) == []


def test_a_share_that_goes_up_and_down_does_not_stop_and_start_each_time() -> None:
    """With a share of 9 and 10 in turn, each second, one instance gives way once; it comes back when the share has
    been 10 for a while."""
    rig = Rig(10, busy=(10,))
    rig.queue(1000)
    stopped = started = 0
    for second in range(20):
        rig.now += 1.0
        rig.hear(10 - second % 2)
        if rig.pool.release(rig.share(), rig.now) is None:
            stops = rig.function.trim(rig.now)
            stopped += sum(stop.number for stop in stops)
            rig.stops(sum(stop.number for stop in stops))
        started += rig.ordered()
    assert (stopped, started) == (1, 0)
    for _ in range(int(LINGER_S) + 1):
        rig.now += 1.0
        rig.hear(10)
    assert rig.ordered() == 1


def test_a_function_that_gave_up_only_idle_ones_may_grow_again_at_once() -> None:
    """A small function whose share follows what it asks for does not wait for its second instance."""
    rig = Rig(3, busy=(1,))
    assert rig.hear(1) == [Stopping(rig.pool, "n1", 2)]
    rig.stops(2)
    rig.queue(2)
    rig.now += 0.2
    rig.hear(3)
    assert rig.ordered() == 2


def test_no_room_is_no_end_while_others_make_room() -> None:
    """Without shares a call gives up after a second in which no node had room; with them it waits, and tries often."""
    for shares, hopeless in ((None, 1), (4, 0)):
        rig = Rig()
        rig.pool.wait(Call("a", "_INBOX.x.1", None, b"", rig.now), rig.now)
        if shares:
            rig.hear(shares)
        rig.now += 2.0
        rig.pool.starts.order(["i1"], rig.now)
        assert len(rig.function.not_placed(rig.pool, ["i1"], Refusal.NO_ROOM, rig.now)) == hopeless
    for n in range(10):
        rig.pool.starts.order([f"j{n}"], rig.now)
        rig.function.not_placed(rig.pool, [f"j{n}"], Refusal.NO_ROOM, rig.now)
    assert rig.pool.starts.retry_at <= rig.now + 0.2


def test_room_on_a_node_is_for_those_who_waited_longest() -> None:
    """A node with memory again: as many try at once as there is room for; who waits no longer is passed over."""
    shortage = Shortage()
    pools = [Pool(spec(memory_mb=memory_mb), Backlog(1000)) for memory_mb in (512, 128, 128, 128)]
    for pool in pools:
        pool.wait(Call("a", "_INBOX.x.1", None, b"", 0), 0)
        shortage.add(pool)
    pools[1].empty()

    def wants(pool: Pool) -> bool:
        return bool(pool.queue)

    assert shortage.relieved(256, wants) == [pools[2], pools[3]]
    assert shortage.relieved(256, wants) == []
    assert shortage.relieved(512, wants) == [pools[0]]


def test_a_version_whose_starts_fail_does_not_try_sooner_for_room() -> None:
    """Room ends the wait after a refusal, not the one after failures."""
    rig = Rig()
    starts = rig.pool.starts
    starts.refused(["a"], rig.now)
    starts.retry()
    assert starts.retry_at == 0
    starts.refused(["b"], rig.now)
    starts.failures = 5
    starts.retry()
    assert starts.retry_at > rig.now


@given(st.data())
def test_never_more_than_what_is_too_many(data: st.DataObject) -> None:
    """Whatever is said, whichever calls end, and however late the Route Cache follows: what is told to stop is never
    more than what is there above the share, and in the end exactly the share is left."""
    per_node = data.draw(st.lists(st.integers(0, 6), min_size=1, max_size=3))
    concurrency = data.draw(st.sampled_from((1, 3)))
    busy = tuple(data.draw(st.integers(0, number * concurrency)) for number in per_node)
    rig = Rig(*per_node, busy=busy, concurrency=concurrency)
    told = [0] * len(per_node)  # and not carried out
    share = 100

    def note(stops: list[Stopping]) -> None:
        for _, name, number in stops:
            told[[node.name for node in rig.nodes].index(name)] += number
        left = sum(len(ids) for ids in rig.listed) - sum(told)
        assert not stops or left >= min(max(1, share), sum(per_node))

    for _ in range(data.draw(st.integers(1, 25))):
        k = data.draw(st.integers(0, len(per_node) - 1))
        match data.draw(st.sampled_from(("hear", "release", "route", "pass"))):
            case "hear":
                share = data.draw(st.integers(0, 12))
                note(rig.hear(share))
            case "release" if rig.nodes[k].name in rig.pool.shares and rig.share(k).busy:
                rig.pool.release(rig.share(k), rig.now)
                note(rig.function.trim(rig.now))
            case "route" if told[k]:
                carried_out = data.draw(st.integers(1, told[k]))
                told[k] -= carried_out
                rig.stops(carried_out, k)
            case "pass":
                rig.now += 0.1
                note(rig.hear(share))
        for node in rig.nodes:
            if one := rig.pool.shares.get(node.name):
                assert 0 <= one.told <= one.yielding <= len(one.instances)
                assert one.slots == concurrency * (len(one.instances) - one.yielding)
    for k, node in enumerate(rig.nodes):  # every call ends, and the nodes do as they are told
        while node.name in rig.pool.shares and rig.share(k).busy:
            rig.pool.release(rig.share(k), rig.now)
    note(rig.hear(share))
    for k, number in enumerate(told):
        rig.stops(number, k)
    assert sum(len(ids) for ids in rig.listed) <= max(1, share)
