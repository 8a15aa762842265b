"""What a router does costs the same among ten functions and among thousands: counted in lines that run, not timed."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, cast

import msgspec
import pytest

from mayfly_chassis.bus import Bus, Subscription
from mayfly_proto import codec, messages, records, storage, subjects
from mayfly_proto.records import (
    Client,
    FunctionLoad,
    NodeLease,
    NodeLoad,
    RouterLoad,
    RouterMembers,
    RouterSeen,
    VersionLoad,
)
from mayfly_proto.reports import RouterReport
from mayfly_router.dispatch import Dispatch
from mayfly_router.durable.events import Events
from mayfly_router.durable.intake import ROUND_S, SILENCE_S
from mayfly_router.durations import NEWS, REMEMBERED, Durations
from mayfly_router.fleet import Fleet, Heartbeat
from mayfly_router.function import Function
from mayfly_router.handover import Handovers
from mayfly_router.holds import Holds
from mayfly_router.rounds import FEW, PERIOD_S, Rounds
from mayfly_router.state import State
from mayfly_router.subscriptions import LOT, Subscriptions
from tests.unit.router_rig import Wire, spec
from tests.unit.steps import steps

SIZES = (10, 1_000)
TICK_S = 0.025
NODE = "n1"


class CountingWire(Wire):
    """Also counts subscriptions, as the server would see them."""

    def __init__(self) -> None:
        super().__init__()
        self.subscribed: list[str] = []
        self.ended: list[str] = []
        self.flushes = 0
        self._inboxes = 0

    def new_inbox(self) -> str:
        self._inboxes += 1
        return f"_INBOX_router.x{self._inboxes}"

    async def subscribe(self, subject: str, callback: Any, *, queue: str = "") -> Subscription:  # type: ignore[override]
        await super().subscribe(subject, callback, queue=queue)
        self.subscribed.append(subject)
        return cast(Subscription, subject)

    async def unsubscribe(self, subscriptions: list[str]) -> None:
        self.ended += subscriptions

    async def flush(self) -> None:
        self.flushes += 1


class Many:
    """A router with functions ``f0``, ``f1`` ...: all at rest but the first, which has an instance on the one node."""

    def __init__(self, size: int) -> None:
        self.now = 1000.0
        self.wire = CountingWire()
        self.told: list[dict[str, FunctionLoad]] = []
        self.later: list[Callable[[], None]] = []
        self.made: list[str] = []
        bus = cast(Bus, self.wire)
        state = self.state = State("r1", 10**9, lambda: self.now)
        state.members = RouterMembers(epoch=1, members={"r1": Client(server="s", id=1)})
        self.dispatch = Dispatch(bus, state, 10.0, self.later.append)
        events = self.events = Events(bus, state, self.dispatch, _background, self.later.append)
        self.fleet = Fleet(bus, state, self.dispatch, _background, events.durable.adopt)
        self.handovers = Handovers(bus, state, self.dispatch, events.durable.give_back_call)
        self.holds = Holds(state, lambda *_: None)
        self.subscriptions = Subscriptions(bus, state, self.dispatch, events)
        self.rounds = Rounds(state, self._look, self._report)
        self.dispatch.attach(
            act=lambda _plan: None,
            divert=self.handovers.divert,
            stale=lambda _node: None,
            keyed=events.keyed.enter,
            again=events.durable.run_again,
        )
        self.node = state.node(NODE)
        self.node.renew(NodeLease(node=NODE, epoch=1, client=Client(server="s", id=2), memory_mb=1000, cores=2))
        self.node.set_adopted(True)
        for number in range(size):
            self.own(f"f{number}")
        self.fleet.on_route(storage.route_key(NODE, 1, "f0"), _route())
        self.turn()
        self.seconds(2)

    def own(self, name: str) -> Function:
        function = Function(name, self.state.backlog)
        function.apply({1: spec(name=name)}, 1, self.now)
        self.state.functions[name] = function
        self.dispatch.touch(name)
        return function

    def turn(self) -> None:
        """The end of a turn of the loop."""
        while self.later:
            self.later.pop(0)()

    def tick(self) -> None:
        """As the router's own, every few hundredths of a second."""
        self.now += TICK_S
        self.node.heard = self.now
        self.fleet.tick(self.now, 0.0)
        self.holds.go_on(self.now)
        self.dispatch.tick(self.now)
        self.events.tick(self.now)
        self.rounds.tick(self.now)
        self.turn()

    def seconds(self, number: float) -> None:
        for _ in range(round(number / TICK_S)):
            self.tick()

    def report(self, **fields: Any) -> bytes:
        load = NodeLoad(
            node=NODE,
            epoch=1,
            seq=1,
            memory_mb=1000,
            memory_used_mb=100,
            cpu_percent=1.0,
            instances={f"f{k}": {"1": VersionLoad(ready=1)} for k in range(40)},
            routers={"r1": RouterSeen(last_seq=self.node.seq, calls=[])},
        )
        return records.encode(load)

    def hear(self) -> None:
        self.fleet.on_load(b"", b"", None, self.report())

    def lease(self) -> None:
        self.fleet.on_lease(NODE, records.encode(NodeLease(
            node=NODE, epoch=1, client=Client(server="s", id=2), memory_mb=1000, cores=2
        )))  # fmt: skip

    def call(self) -> None:
        """One that finds a free slot, and ends."""
        self.dispatch.on_call(self.state.functions["f0"], 0, b"fn.f0", b"_INBOX.x", None, b"{}")
        done = messages.Done(NODE, 1, self.node.seq, [self.node.seq])
        self.dispatch.on_done(b"", b"", None, codec.pack(done))

    def _look(self, function: Function, now: float) -> None:
        self.events.extend(function, now)
        self.state.look_at(function, now)

    def _report(self, _now: float) -> None:
        self.told.append({name: records.decode(raw, FunctionLoad) for name, raw in self.state.loads.current.items()})
        self.state.loads.told()


def _route() -> bytes:
    return records.encode(records.Route(epoch=1, instances=["i1"], slots=1))


def _background(_name: str, work: Coroutine[Any, Any, None]) -> None:
    asyncio.get_running_loop().create_task(work)


@pytest.mark.parametrize("what", ["hear", "lease", "call"])
async def test_what_comes_costs_the_same_among_ten_functions_and_a_thousand(what: str) -> None:
    """A node's report, the renewal of its lease, a warm call."""
    costs = []
    for size in SIZES:
        many = Many(size)
        getattr(many, what)()
        costs.append(steps(getattr(many, what)))
    assert costs[0] == costs[1] > 0


async def test_a_second_costs_the_same_among_ten_functions_and_a_thousand() -> None:
    """Those at rest are not gone through: nothing that goes by time looks at them."""
    many, few = Many(SIZES[1]), Many(SIZES[0])
    for one in (many, few):
        one.call()
    assert steps(lambda: many.seconds(1)) <= 1.2 * steps(lambda: few.seconds(1))


async def test_a_node_is_forgotten_by_what_it_had_and_not_by_all() -> None:
    """A lost node costs what runs and starts there."""
    costs = []
    for size in SIZES:
        many = Many(size)
        costs.append(steps(lambda many=many: many.fleet.lose(many.node, "test")))
    assert costs[0] == costs[1]


async def test_what_starts_on_a_node_is_looked_for_in_its_report() -> None:
    """And only there: an order whose end was lost is found out by the one report that should have it."""
    many = Many(10)
    pool = many.state.functions["f3"].current
    assert pool is not None
    pool.starts.order(["i9"], many.now)
    pool.starts.placed("i9", NODE, many.now)
    many.state.expect(pool, NODE)
    many.now += 5
    many.fleet.on_load(b"", b"", None, many.report().replace(b'"f3":{"1":{"ready":1}}', b'"f3":{"1":{"starting":1}}'))
    assert "i9" in pool.starts
    assert set(many.state.coming) == {NODE}
    many.fleet.on_load(b"", b"", None, many.report().replace(b'"f3":{"1":{"ready":1}},', b""))
    assert "i9" not in pool.starts
    assert many.state.coming == {}


def test_parts_of_records_are_called_what_the_records_call_them() -> None:
    """What a router reads of a node's report, and what it puts together itself."""
    assert set(Heartbeat.__struct_fields__) <= set(NodeLoad.__struct_fields__)
    loads = {"f": msgspec.Raw(records.encode(FunctionLoad(ready=1)))}
    report = records.encode(RouterReport(router="r1", epoch=7, functions=loads))
    assert records.decode(report, RouterLoad) == RouterLoad(
        router="r1", epoch=7, functions={"f": FunctionLoad(ready=1)}
    )


async def test_idle_instances_are_told_of_without_being_looked_at() -> None:
    """What was found when something happened last stands until something happens again."""
    many = Many(SIZES[0])
    many.seconds(3)
    assert many.state.awake == {}
    assert many.told[-1] == {"f0": FunctionLoad(ready=1)}
    many.call()
    many.seconds(1.1)
    assert many.told[-1]["f0"].calls == 1


def test_quantiles_follow_what_is_new() -> None:
    """They are never further off than an eighth of the last calls."""
    durations = Durations()
    for number in range(1000):
        durations.add(number)
        p50_s, _ = durations.quantiles
        last = [float(n) for n in range(max(0, number - REMEMBERED + 1), number + 1)]
        assert last[0] + len(last) * (0.5 - 1 / NEWS) - 1 <= p50_s <= last[0] + len(last) * 0.5


async def test_many_that_are_awake_are_looked_at_in_turn() -> None:
    """A thousand functions with a call each: looked at once in every second, and none of the ticks is long."""
    many = Many(SIZES[1])
    for name in many.state.functions:
        many.fleet.on_route(storage.route_key(NODE, 1, name), _route())
    many.turn()
    for function in many.state.functions.values():
        many.dispatch.on_call(function, 0, b"fn.f", b"_INBOX.x", None, b"{}")
    many.seconds(2 * PERIOD_S)
    many.told.clear()
    assert len(many.state.awake) == SIZES[1]
    ticks = [steps(many.tick) for _ in range(round(2 * PERIOD_S / TICK_S))]
    assert [len(loads) for loads in many.told] == [SIZES[1]] * len(many.told)
    assert len(many.told) >= 1
    assert max(ticks) < sum(ticks) / len(ticks) * 6


async def test_few_that_are_awake_are_told_of_as_they_are_now() -> None:
    """What changed a moment before a report is in it."""
    many = Many(FEW)
    many.seconds(PERIOD_S - 2 * TICK_S)
    many.told.clear()
    many.fleet.on_route(storage.route_key(NODE, 1, "f7"), _route())
    many.turn()
    while not many.told:
        many.tick()
    assert many.told[0]["f7"].ready == 1


async def test_who_falls_asleep_is_told_of_once_more_and_wakes_by_a_call() -> None:
    """The scaler hears once that there is nothing left, then nothing; the next call is heard of again."""
    many = Many(3)
    many.fleet.on_route(storage.route_key(NODE, 1, "f0"), None)
    many.seconds(3)
    assert many.state.awake == {}
    assert [loads["f0"].ready for loads in many.told if "f0" in loads] == [1, 0]
    assert "f0" not in many.told[-1]
    many.dispatch.on_call(many.state.functions["f0"], 0, b"fn.f0", b"_INBOX.x", None, b"{}")
    many.seconds(1.1)
    assert many.told[-1]["f0"].queued == 1


async def test_an_error_wakes_the_function_that_it_is_counted_for() -> None:
    """Nothing of it is there, and still somebody has to hear of the call."""
    many = Many(3)
    raw = b"NATS/1.0\r\nMayfly-Timeout-Ms: soon\r\n\r\n"
    many.dispatch.on_call(many.state.functions["f1"], 0, b"fn.f1", b"_INBOX.x", raw, b"{}")
    many.seconds(1.1)
    assert any(loads.get("f1", FunctionLoad()).errors == 1 for loads in many.told)


# subscriptions


async def follow(many: Many) -> None:
    """Until all that has changed is followed."""
    many.wire.subscribed.clear()
    task = asyncio.create_task(many.subscriptions.keep())
    while " 0 to be looked at" not in repr(many.subscriptions):
        await asyncio.sleep(0)
    for _ in range(5):
        await asyncio.sleep(0)
    task.cancel()


async def test_a_deploy_subscribes_to_what_is_new_and_to_nothing_else() -> None:
    """Among a thousand functions as among ten: one more version is one subscription more."""
    for size in SIZES:
        many = Many(size)
        many.subscriptions.members_changed(many.state.functions)
        await follow(many)
        assert len(set(many.wire.subscribed)) == len(many.wire.subscribed) == 6 * size
        function = many.state.functions["f5"]
        function.apply({1: spec(name="f5"), 2: spec(name="f5", version=2)}, 2, many.now)
        many.subscriptions.changed(["f5"])
        await follow(many)
        assert many.wire.subscribed == [subjects.call("f5", 2)]
        assert many.wire.ended == []
        del many.state.functions["f5"]
        many.subscriptions.changed(["f5"])
        await follow(many)
        assert (many.wire.subscribed, len(many.wire.ended)) == ([], 7)


async def test_the_server_is_waited_for_between_lots() -> None:
    """Thousands of subscriptions at once would stand before every call that is forwarded meanwhile."""
    many = Many(SIZES[1])
    many.subscriptions.members_changed(many.state.functions)
    await follow(many)
    assert many.wire.flushes >= SIZES[1] // LOT


async def test_a_function_is_made_when_it_is_asked_for() -> None:
    """One that is ours since a moment ago and not made yet: a call that is handed over makes it, and waits there."""
    many = Many(3)

    def make(name: str) -> Function | None:
        many.made.append(name)
        return many.own(name) if name == "new" else None

    many.state.make = make
    handover = messages.Handover("new", 0, "i1", "_INBOX.x", 1000, 1, 1)
    many.handovers.on_handover(b"", b"", None, codec.pack(handover, b"{}"))
    assert many.made == ["new"]
    assert many.state.functions["new"].waiting == 1
    many.wire.sent.clear()
    many.handovers.on_handover(b"", b"", None, codec.pack(messages.Handover("other", 0, "i2", "_INBOX.x", 1000, 1, 1)))
    assert b"not_found" in many.wire.sent[0][2]


# sources


async def test_every_source_is_looked_at_for_silence_a_few_in_each_tick() -> None:
    """A question that was lost is asked again; thousands of sources that are well cost no tick much."""
    many = Many(SIZES[1])
    many.subscriptions.members_changed(many.state.functions)
    await follow(many)
    many.seconds(ROUND_S)
    ticks = [steps(many.tick) for _ in range(round(ROUND_S / TICK_S))]
    assert max(ticks) < 3 * sum(ticks) / len(ticks)
    many.wire.sent.clear()
    many.seconds(SILENCE_S + 2 * ROUND_S)
    asked = {subject for subject, _, _ in many.wire.sent if ".MSG.NEXT." in subject}
    assert len(asked) == 3 * SIZES[1]


async def test_a_router_that_slept_does_not_take_its_sleep_for_the_time_of_a_call() -> None:
    """It would refuse those who come then, by a wait that it predicts from that."""
    many = Many(1)
    pool = many.state.functions["f0"].current
    assert pool is not None
    many.call()
    before = pool.service_s
    many.dispatch.on_call(many.state.functions["f0"], 0, b"fn.f0", b"_INBOX.x", None, b"{}")
    many.now += 12
    many.dispatch.on_done(b"", b"", None, codec.pack(messages.Done(NODE, 1, many.node.seq, [many.node.seq])))
    assert pool.service_s == before
