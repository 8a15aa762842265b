"""A router against simulated workers, in every order of events that hypothesis thinks of.

The world here is what lies outside the router: a wire that keeps its order and may break, workers that start, serve,
crash and die, a Route Cache whose feed lags. The router's own parts are the real ones.
"""

from collections import Counter, deque
from collections.abc import Callable, Coroutine
from itertools import count
from typing import Any, cast

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mayfly_chassis.bus import Bus, Reply
from mayfly_proto import codec, errors, messages, records, storage
from mayfly_proto.records import (
    Client,
    FunctionTarget,
    NodeLease,
    NodeLoad,
    Package,
    Route,
    RouterMembers,
    RouterSeen,
    VersionSpec,
)
from mayfly_router import drains
from mayfly_router.dispatch import Dispatch
from mayfly_router.fleet import Fleet
from mayfly_router.function import Function, Plan, Stopping
from mayfly_router.holds import Holding, Holds
from mayfly_router.nodes import Node
from mayfly_router.pool import Pool
from mayfly_router.state import State

LIMIT = 4
NODES = ("n1", "n2")
_invoke = codec.Unpacker(messages.Invoke)


def spec(**changes: Any) -> VersionSpec:
    package = Package(sha256="0", size=1, format="py", filename="f.py")
    fields = {"name": "f", "version": 1, "runtime": "python", "handler": "f:f", "package": package, "created": ""}
    return VersionSpec(**(fields | {"max_instances": LIMIT} | changes))


def _never(_call: object) -> None:
    raise AssertionError("no call here is durable")


class Worker:
    """One life of a node. Instances have one slot each."""

    def __init__(self, name: str, epoch: int) -> None:
        self.name = name
        self.epoch = epoch
        self.frames: deque[messages.Invoke | Stopping | Holding] = deque()  # on their way here
        self.words: deque[messages.Done] = deque()  # on their way to the router
        self.starting: set[str] = set()
        self.idle: set[str] = set()
        self.running: dict[int, tuple[str, messages.Invoke]] = {}  # seq → instance, call
        self.last_seq = 0
        self.draining = False
        self.held = 0
        self.stopping: set[str] = set()  # instances that end with their call

    @property
    def calls(self) -> list[messages.Invoke]:
        """On their way here."""
        return [frame for frame in self.frames if isinstance(frame, messages.Invoke)]

    @property
    def in_service(self) -> set[str]:
        return self.instances - self.starting - self.stopping

    def stop(self, number: int = -1) -> None:
        """Idle ones first; below 0: all."""
        chosen = sorted(self.in_service, key=lambda instance: instance not in self.idle)
        if number < 0:
            self.starting.clear()
        for instance in chosen if number < 0 else chosen[:number]:
            if instance in self.idle:
                self.idle.discard(instance)
            else:
                self.stopping.add(instance)

    def reclaim(self) -> None:
        """What is idle and not held goes."""
        for _ in range(len(self.in_service) - self.held):
            if self.idle:
                self.idle.discard(min(self.idle))

    @property
    def instances(self) -> set[str]:
        return self.starting | self.idle | {instance for instance, _ in self.running.values()}

    def route(self) -> bytes | None:
        ready = sorted(self.in_service)
        return records.encode(Route(epoch=self.epoch, instances=ready, slots=len(ready))) if ready else None

    def say(self, done: list[int], refused: list[tuple[int, str]]) -> None:
        self.words.append(messages.Done(self.name, self.epoch, self.last_seq, done, refused))


class Wire:
    """What the router holds for its connection."""

    payload_limit = 1_000_000
    reconnects = 0

    def __init__(self, world: "World") -> None:
        self._world = world

    def publish(self, subject: str | bytes, payload: bytes = b"", *, headers: bytes | None = None) -> None:
        name = subject if isinstance(subject, str) else subject.decode()
        if name.startswith("_INBOX."):
            error = errors.from_reply(headers, payload)
            assert error is not None
            self._world.answer(name, error.kind.value)
        else:
            self._world.sent(name.split(".")[2], _invoke(payload)[0])

    async def request(self, subject: str, payload: bytes = b"", *, timeout_s: float = 0) -> Reply:
        return self._world.adopt(subject.split(".")[2])


class World(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.state = State("r1", 10**9, lambda: self.now)
        self.state.members = RouterMembers(epoch=1, members={"r1": Client(server="s", id=1)})
        self.soon: deque[Callable[[], None]] = deque()
        bus = cast(Bus, Wire(self))
        self.dispatch = Dispatch(bus, self.state, 10.0, self.soon.append)
        self.tasks: deque[Coroutine[Any, Any, None]] = deque()
        self.fleet = Fleet(bus, self.state, self.dispatch, lambda _name, task: self.tasks.append(task), _never)
        self.dispatch.attach(act=self.act, divert=self.never, stale=self.never, keyed=self.never, again=self.never)
        self.workers: dict[str, Worker] = {}
        self.lives = 0
        self.ids = count()
        self.feed: deque[tuple[str, bytes | None]] = deque()  # the Route Cache's
        self.orders: deque[str] = deque()  # ordered, not placed
        self.calls = 0
        self.answers: Counter[str] = Counter()
        self.kinds: Counter[str] = Counter()
        self.runs: Counter[str] = Counter()
        self.returned: set[str] = set()  # calls that came back to the queue once
        self.written_off: set[str] = set()
        self.answered_twice: set[str] = set()
        self.holds = Holds(self.state, lambda node, _pool, holding: self.workers[node].frames.append(holding))
        self.delivered: dict[str, Route | None] = {}  # the Route Cache as the router knows it
        self.left: set[str] = set()  # nodes that drain and were told to stop everything

    @initialize(idempotent=st.booleans(), eager=st.booleans(), minimum=st.integers(0, LIMIT))
    def deploy(self, idempotent: bool, eager: bool, minimum: int) -> None:
        function = Function("f", self.state.backlog, self.state.allotments)
        self.idempotent = idempotent
        function.apply({1: spec(idempotent=idempotent, activation="eager" if eager else "balanced")}, 1, self.now)
        self.state.functions["f"] = function
        self.function = function
        for name in NODES:
            self.join(name)
        self.target_changes(minimum)
        self.all_is_quiet_for_a_while()

    # the world's side

    @property
    def pool(self) -> Pool:
        assert self.function.current is not None
        return self.function.current

    def node(self, name: str) -> Node:
        return self.state.node(name)

    def join(self, name: str) -> None:
        self.lives += 1
        self.workers[name] = Worker(name, self.lives)
        self.write_lease(name)

    def write_lease(self, name: str) -> None:
        worker = self.workers[name]
        client = Client(server="s", id=100 + worker.epoch)
        lease = NodeLease(
            node=name, epoch=worker.epoch, client=client, memory_mb=1000, cores=2, draining=worker.draining
        )
        if not worker.draining:
            self.left.discard(name)
        self.fleet.on_lease(name, records.encode(lease))
        self.settle()

    def settle(self) -> None:
        """The loop turns: handshakes are answered at once, plans are made."""
        while self.tasks or self.soon:
            while self.tasks:
                task = self.tasks.popleft()
                try:
                    task.send(None)
                except StopIteration:
                    continue
                raise AssertionError("a handshake waits")
            if self.soon:
                self.soon.popleft()()

    def adopt(self, name: str) -> Reply:
        """Both directions keep their order: what was sent before the question arrives before it."""
        worker = self.workers[name]
        while worker.frames:
            self.take(worker)
        while worker.words:
            self.hear(worker)
        views = [messages.InstanceView("f", 1, instance, "starting") for instance in sorted(worker.starting)]
        calls = [
            messages.CallView(seq, "f", 1, call.invocation, call.reply, call.budget_ms)
            for seq, (_, call) in worker.running.items()
        ]
        return Reply(None, codec.pack(messages.Adopted(name, worker.epoch, worker.last_seq, views, calls)))

    def act(self, plan: Plan) -> None:
        for pool, number in plan.orders:
            ids = [f"i{next(self.ids)}" for _ in range(number)]
            pool.starts.order(ids, self.now)
            self.orders.extend(ids)
        for stopping in plan.stops:
            self.workers[stopping.node].frames.append(stopping)

    def leave_nodes(self) -> None:
        """What the router does in every tick about nodes that drain."""
        full = self.function.room(self.now) <= 0
        for stopping in drains.leave(self.state.nodes.values(), self.state.functions, self.now):
            staying = [name for name in NODES if not self.workers[name].draining]
            ready = sum(self.known_ready(name) for name in staying)
            if stopping.node not in self.left:
                assert ready >= self.function.minimum or full, "the minimum is ready elsewhere first"
            assert stopping.number == -1
            self.left.add(stopping.node)
            self.workers[stopping.node].frames.append(stopping)
            self.dispatch.touch("f")

    def known_ready(self, name: str) -> int:
        route = self.delivered.get(name)
        return len(route.instances) if route is not None and route.epoch == self.workers[name].epoch else 0

    def never(self, *_: object) -> None:
        raise AssertionError("one router owns everything here")

    def sent(self, name: str, frame: messages.Invoke) -> None:
        waiting = [call.invocation for call in self.pool.queue if call.invocation not in self.returned]
        older = [invocation for invocation in waiting if int(invocation, 16) < int(frame.invocation, 16)]
        assert frame.invocation in self.returned or not older, "first come, first served"
        assert name not in self.left, "nothing new for a node that was left"
        self.workers[name].frames.append(frame)

    def take(self, worker: Worker) -> None:
        frame = worker.frames.popleft()
        if isinstance(frame, Holding):
            worker.held = frame.number
            return
        if isinstance(frame, Stopping):
            worker.stop(frame.number)
            self.write_route(worker)
            return
        worker.last_seq = max(worker.last_seq, frame.seq)
        if not worker.idle:
            self.returned.add(frame.invocation)
            worker.say([], [(frame.seq, messages.Refusal.BUSY)])
            return
        instance = min(worker.idle)
        worker.idle.discard(instance)
        self.runs[frame.invocation] += 1
        worker.running[frame.seq] = (instance, frame)

    def hear(self, worker: Worker) -> None:
        self.dispatch.on_done(b"", b"", None, codec.pack(worker.words.popleft()))

    def answer(self, reply: str, kind: str) -> None:
        self.answers[reply] += 1
        self.kinds[kind] += 1

    def end(self, worker: Worker, seq: int, kind: str) -> None:
        """Its instance is idle, unless that crashed or was told to stop."""
        instance, call = worker.running.pop(seq)
        self.answer(call.reply, kind)
        worker.say([seq], [])
        if kind == "result" and instance not in worker.stopping:
            worker.idle.add(instance)
        worker.stopping.discard(instance)

    def write_route(self, worker: Worker) -> None:
        self.feed.append((storage.route_key(worker.name, 1, "f"), worker.route()))

    def pick(self, data: st.DataObject, of: Callable[[Worker], object]) -> Worker | None:
        candidates = [name for name in NODES if of(self.workers[name])]
        return self.workers[data.draw(st.sampled_from(candidates))] if candidates else None

    # what happens

    @rule(number=st.integers(1, 6))
    def call(self, number: int) -> None:
        for _ in range(number):
            self.calls += 1
            self.dispatch._prefix, self.dispatch._count = "", self.calls - 1
            reply = f"_INBOX.{self.calls}".encode()
            self.dispatch.on_call(self.function, 0, b"fn.f", reply, None, b"event")
        self.settle()

    @rule(data=st.data())
    def frame_arrives(self, data: st.DataObject) -> None:
        if worker := self.pick(data, lambda worker: worker.frames):
            self.take(worker)

    @rule(data=st.data())
    def word_arrives(self, data: st.DataObject) -> None:
        if worker := self.pick(data, lambda worker: worker.words):
            self.hear(worker)
            self.settle()

    @rule(data=st.data())
    def call_ends(self, data: st.DataObject) -> None:
        if worker := self.pick(data, lambda worker: worker.running):
            self.end(worker, data.draw(st.sampled_from(sorted(worker.running))), "result")

    @rule(data=st.data())
    def instance_crashes(self, data: st.DataObject) -> None:
        if worker := self.pick(data, lambda worker: worker.running):
            self.end(worker, data.draw(st.sampled_from(sorted(worker.running))), "instance_crashed")
            self.write_route(worker)

    @rule(data=st.data())
    def instance_is_reclaimed(self, data: st.DataObject) -> None:
        if worker := self.pick(data, lambda worker: worker.idle and len(worker.in_service) > worker.held):
            worker.idle.discard(min(worker.idle))
            self.write_route(worker)

    @precondition(lambda self: self.orders)
    @rule(name=st.sampled_from(NODES))
    def start_is_placed(self, name: str) -> None:
        if self.workers[name].draining:
            self.start_is_refused()
            return
        instance = self.orders.popleft()
        self.workers[name].starting.add(instance)
        self.pool.starts.placed(instance, name, self.now)

    @precondition(lambda self: self.orders)
    @rule()
    def start_is_refused(self) -> None:
        self.function.not_placed(self.pool, [self.orders.popleft()], messages.Refusal.SLOTS, self.now)

    @rule(number=st.integers(0, LIMIT + 1))
    def target_changes(self, number: int) -> None:
        self.function.target = FunctionTarget(minimum=number)
        self.state.restated.add("f")
        self.dispatch.touch("f")
        self.settle()

    @rule(name=st.sampled_from(NODES), on=st.booleans())
    def node_drains(self, name: str, on: bool) -> None:
        """It keeps what is held, and says so; or it takes all back."""
        worker = self.workers[name]
        worker.draining = on
        if on:
            worker.reclaim()
            self.write_route(worker)
        self.write_lease(name)

    @rule(name=st.sampled_from(NODES))
    def node_waits_no_longer(self, name: str) -> None:
        """The worker's own limit on a drain."""
        if self.workers[name].draining:
            self.workers[name].stop()
            self.write_route(self.workers[name])

    @rule(data=st.data())
    def instance_is_ready(self, data: st.DataObject) -> None:
        if worker := self.pick(data, lambda worker: worker.starting):
            instance = min(worker.starting)
            worker.starting.discard(instance)
            worker.idle.add(instance)
            self.write_route(worker)

    @precondition(lambda self: self.feed)
    @rule()
    def route_arrives(self) -> None:
        key, value = self.feed.popleft()
        self.delivered[storage.parse_route_key(key)[0]] = None if value is None else records.decode(value, Route)
        self.fleet.on_route(key, value)
        self.settle()

    @rule(name=st.sampled_from(NODES))
    def heartbeat(self, name: str) -> None:
        worker = self.workers[name]
        while worker.words:
            self.hear(worker)
        ready = len(worker.in_service)
        counts = records.VersionLoad(ready=ready, busy=len(worker.running), starting=len(worker.starting))
        load = NodeLoad(
            node=name,
            epoch=worker.epoch,
            seq=1,
            memory_mb=1,
            memory_used_mb=0,
            cpu_percent=0,
            instances={"f": {"1": counts}},
            routers={"r1": RouterSeen(last_seq=worker.last_seq, calls=sorted(worker.running))},
        )
        self.fleet.on_load(b"", b"", None, records.encode(load))
        self.settle()

    @rule(name=st.sampled_from(NODES))
    def connection_breaks(self, name: str) -> None:
        """All that was under way is lost, in both directions, and the server says so."""
        worker = self.workers[name]
        self.returned |= {frame.invocation for frame in worker.calls}
        for word in worker.words:
            lost = {seq for seq, _ in word.refused}
            self.returned |= {call.invocation for seq, call in self.node(name).inflight.items() if seq in lost}
            for seq in lost:  # a refusal lost is a call lost: nothing tells it from one that ran
                if call := self.node(name).inflight.get(seq):
                    self.written_off.add(call.reply)
        worker.frames.clear()
        worker.words.clear()
        client = self.node(name).client
        assert client is not None
        self.fleet.disconnected(client)
        self.settle()

    @rule(name=st.sampled_from(NODES), number=st.integers(1, 6))
    def calls_come_while_a_node_is_asked(self, name: str, number: int) -> None:
        """Nothing is sent there until it has answered."""
        node = self.node(name)
        if node.usable:
            node.pause()
        sent = node.seq
        self.call(number)
        assert node.seq == sent
        self.fleet.adopt(node)
        self.settle()

    @rule(name=st.sampled_from(NODES))
    def node_dies(self, name: str) -> None:
        worker = self.workers[name]
        lost = {call.invocation for call in self.node(name).inflight.values()}
        self.returned |= lost
        # A node that dies between its answer and its word to the router leaves a caller with an answer and an error.
        self.answered_twice |= {call.reply for call in self.node(name).inflight.values() if call.reply in self.answers}
        self.written_off |= {call.reply for _, call in worker.running.values()}
        self.orders = deque(instance for instance in self.orders if instance not in worker.starting)
        self.fleet.on_lease(name, None)
        self.feed.append((storage.route_key(name, 1, "f"), None))
        self.join(name)

    @rule(seconds=st.sampled_from((0.02, 0.1, 1.0)))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.leave_nodes()
        if seconds >= 1:
            self.holds.step(self.now)
        self.dispatch.tick(self.now)
        self.settle()

    @rule()
    def all_is_quiet_for_a_while(self) -> None:
        """Else there is seldom enough to lose."""
        for _ in range(3):
            self.calm()
            self.time_passes(1.0)

    # what always holds

    @invariant()
    def each_call_is_in_one_place(self) -> None:
        queued = [call.invocation for call in self.pool.queue]
        flying = [call.invocation for name in NODES for call in self.node(name).inflight.values()]
        assert len(queued + flying) == len({*queued, *flying})

    @invariant()
    def slots_are_counted_exactly(self) -> None:
        for name, share in self.pool.shares.items():
            inside = [call for call in self.node(name).inflight.values() if call.share is share]
            assert share.busy == len(inside), (share, inside)
        assert self.pool.busy == sum(share.busy for share in self.pool.shares.values())
        assert self.state.backlog.bytes == 5 * len(self.pool.queue)
        assert self.function.gaps.level == self.pool.busy, "one slot each"

    @invariant()
    def nobody_waits_beside_a_free_slot(self) -> None:
        free = [share for share in self.pool.shares.values() if share.open and share.busy < share.slots]
        assert not (self.pool.queue and free), self.pool

    @invariant()
    def the_limit_holds(self) -> None:
        existing = sum(len(worker.instances) for worker in self.workers.values())
        assert existing + len(self.orders) <= LIMIT

    @invariant()
    def nothing_runs_twice(self) -> None:
        if not self.idempotent:
            assert all(times == 1 for times in self.runs.values())
            twice = {reply for reply, times in self.answers.items() if times > 1}
            assert twice <= self.answered_twice

    def teardown(self) -> None:
        """Left alone, every call is answered, and every slot is free again."""
        if not self.workers:
            return
        for _ in range(400):
            if not self.unsettled():
                break
            self.calm()
        assert self.pool.busy == 0 and not self.pool.queue, self.state
        assert not any(self.node(name).inflight for name in NODES), self.state
        unanswered = {f"_INBOX.{k}" for k in range(1, self.calls + 1)} - set(self.answers)
        assert unanswered <= self.written_off, unanswered
        self.the_minimum_moves_to_nodes_that_stay()

    def the_minimum_moves_to_nodes_that_stay(self) -> None:
        staying = [name for name in NODES if not self.workers[name].draining]
        for _ in range(100):
            self.calm()
            self.time_passes(1.0)
        ready = sum(self.known_ready(name) for name in staying)
        assert ready >= (self.function.minimum if staying else 0), self.state
        if staying:
            assert not [name for name in NODES if name not in staying and self.workers[name].instances], self.state

    def unsettled(self) -> bool:
        outside = any(worker.running or worker.frames or worker.words for worker in self.workers.values())
        inside = self.pool.queue or any(self.node(name).inflight for name in NODES)
        return bool(outside or inside or self.feed)

    def calm(self) -> None:
        while self.orders:
            self.start_is_placed("n2" if self.workers["n1"].draining else "n1")
        for worker in self.workers.values():
            for instance in sorted(worker.starting):
                worker.starting.discard(instance)
                worker.idle.add(instance)
                self.write_route(worker)
            while worker.frames:
                self.take(worker)
            for seq in sorted(worker.running):
                self.end(worker, seq, "result")
            self.heartbeat(worker.name)
        while self.feed:
            self.route_arrives()
        self.time_passes(0.1)


World.TestCase.settings = settings(max_examples=120, stateful_step_count=60, deadline=None)


@pytest.mark.invariant("P1", "S12", "S23", "S24")
class TestWorld(World.TestCase):
    """Any order of events."""
