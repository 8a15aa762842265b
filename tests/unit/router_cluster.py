"""A whole cluster in simulated time: minutes of load in seconds, the same in every run.

Router, activator, the worker's pool and what the scaler says of shares are the real code; what they hold for their
connection, the processes of instances, and time are not. A message takes `HOP_S`, a word of the Route Cache `ROUTE_S`.
"""

import asyncio
import itertools
import selectors
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

from mayfly_activator.fleet import Fleet as ActivatorFleet
from mayfly_activator.starter import Starter
from mayfly_chassis.bus import PAYLOAD_HEADROOM, Bus, Reply
from mayfly_proto import codec, errors, messages, records, storage, subjects
from mayfly_proto.records import (
    Client,
    FunctionLoad,
    FunctionTarget,
    NodeLease,
    Package,
    Route,
    RouterLoad,
    RouterMembers,
    RouterSeen,
    VersionSpec,
)
from mayfly_router.dispatch import Dispatch
from mayfly_router.fleet import Fleet
from mayfly_router.function import Function
from mayfly_router.limits import Limits
from mayfly_router.orders import Orders
from mayfly_router.state import State
from mayfly_scaler.functions.function import Function as ScaledFunction
from mayfly_scaler.functions.learning import Learning
from mayfly_scaler.functions.sharing import Sharing
from mayfly_scaler.reports import Reports
from mayfly_scaler.told import News
from mayfly_worker.pool import Group, Instance, Pool

HOP_S = 0.0002
ROUTE_S = 0.002
EXIT_S = 0.003  # of a process that was told to end
TICK_S = 0.025
HEARTBEAT_S = 1.0
SOONEST_S = 0.05  # between two heartbeats of a node that has room again

Receive = Callable[[bytes, bytes, bytes | None, bytes], None]


class _Selector(selectors.SelectSelector):
    """Waits for nothing: time goes to the next thing that is due."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0

    def select(self, timeout: float | None = None) -> list[Any]:
        assert timeout is not None, "nothing is due any more"
        self.now += max(0.0, timeout)
        return super().select(0)


class Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._clock = _Selector()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now


def simulated(scenario: Coroutine[Any, Any, Any]) -> Any:
    with asyncio.Runner(loop_factory=Loop) as runner:
        return runner.run(scenario)


class Net:
    """What everybody holds for a connection: what is published arrives a moment later, in order."""

    payload_limit = 1_000_000 - PAYLOAD_HEADROOM
    reconnects = 0
    connected = True

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._receivers: dict[str, list[Receive]] = {}
        self._answers: dict[str, asyncio.Future[Reply]] = {}
        self._inboxes = itertools.count()
        self._under_way: deque[tuple[float, str, bytes, bytes | None, bytes]] = deque()
        self.published: Counter[str] = Counter()

    def receive(self, subject: str, receiver: Receive) -> None:
        self._receivers.setdefault(subject, []).append(receiver)

    def publish(
        self, subject: str | bytes, payload: bytes = b"", *, reply: str | bytes = b"", headers: bytes | None = None
    ) -> None:
        name = subject if isinstance(subject, str) else subject.decode()
        back = reply if isinstance(reply, bytes) else reply.encode()
        self.published[name] += 1
        if not self._under_way:
            self._loop.call_later(HOP_S, self._arrive)
        self._under_way.append((self._loop.time() + HOP_S, name, back, headers, payload))

    async def request(
        self, subject: str, payload: bytes = b"", *, headers: bytes | None = None, timeout_s: float = 5.0
    ) -> Reply:
        inbox = f"_INBOX.{next(self._inboxes)}.x"
        self._answers[inbox] = self._loop.create_future()
        self.publish(subject, payload, reply=inbox, headers=headers)
        async with asyncio.timeout(timeout_s):
            return await self._answers[inbox]

    def _arrive(self) -> None:
        while self._under_way and self._under_way[0][0] <= self._loop.time() + 1e-9:
            _, name, reply, headers, payload = self._under_way.popleft()
            answer = self._answers.pop(name, None)
            if answer is not None and not answer.done():
                answer.set_result(Reply(headers, payload))
            for receiver in self._receivers.get(name, ()):
                receiver(name.encode(), reply, headers, payload)
        if self._under_way:
            self._loop.call_at(self._under_way[0][0], self._arrive)


class Worker:
    """A node. A call's payload says for how long it runs."""

    def __init__(self, cluster: "Cluster", name: str, memory_mb: int) -> None:
        self.cluster = cluster
        self.name = name
        self.pool = Pool(memory_mb, 64)
        self._loop = asyncio.get_running_loop()
        self._seq = 0
        self._running: set[int] = set()
        self._told_at = 0.0
        net = cluster.net
        self._on(subjects.node_adopt(name), messages.Adopt, self._adopt)
        self._on(subjects.node_start(name), messages.Start, self._start)
        self._on(subjects.node_stop(name), messages.Stop, self._stop)
        net.receive(subjects.node_invoke(name), self._invoke)

    def _on(self, subject: str, kind: type, handler: Callable[[Any], Any]) -> None:
        unpack = codec.Unpacker(kind)

        def receive(_subject: bytes, reply: bytes, _raw: bytes | None, frame: bytes) -> None:
            answer = handler(unpack(frame)[0])
            if answer is not None:
                self.cluster.net.publish(reply, codec.pack(answer))

        self.cluster.net.receive(subject, receive)

    def _adopt(self, adopt: messages.Adopt) -> messages.Adopted:
        return messages.Adopted(self.name, 1, self._seq, [], [])

    def _start(self, start: messages.Start) -> messages.Started:
        now = self._loop.time()
        admission = self.pool.order(start.function, start.version, start.memory_mb, start.instances, now)
        self._gone(admission.evicted)
        for instance in admission.starting:
            instance.group.configure(self.cluster.specs[start.function])
            self._loop.call_later(self.cluster.cold_s, self._ready, instance)
        self.cluster.starts[start.function] += len(admission.starting)
        return messages.Started(admission.accepted, admission.reason)

    def _ready(self, instance: Instance) -> None:
        instance.group.ready(instance, self._loop.time())
        self._write(instance.group)

    def _stop(self, stop: messages.Stop) -> None:
        self.cluster.stops[stop.function] += stop.count
        self._gone(self.pool.shrink(stop.function, stop.version, stop.count))

    def _gone(self, drained: list[Instance]) -> None:
        for group in {instance.group: None for instance in drained}:
            self._write(group)
        for instance in drained:
            if instance.finished:
                self._loop.call_later(EXIT_S, self._remove, instance)

    def _remove(self, instance: Instance) -> None:
        self.pool.remove(instance)
        if self.cluster.tells_of_room and self._loop.time() - self._told_at >= SOONEST_S:
            self._told_at = self._loop.time()
            self.heartbeat()

    def _invoke(self, _subject: bytes, _reply: bytes, raw: bytes | None, frame: bytes) -> None:
        meta, payload = codec.Unpacker(messages.Invoke)(frame)
        self._seq = max(self._seq, meta.seq)
        group = self.pool.groups.get((meta.function, meta.version))
        instance = group.take() if group is not None else None
        if instance is None:
            self.cluster.refused += 1
            self._done([], [(meta.seq, messages.Refusal.BUSY)])
            return
        self._running.add(meta.seq)
        self.cluster.began(meta)
        self._loop.call_later(float(payload), self._finish, instance, meta)

    def _finish(self, instance: Instance, meta: messages.Invoke) -> None:
        self._running.discard(meta.seq)
        instance.group.release(instance, self._loop.time())
        self.cluster.net.publish(meta.reply, b"{}")
        self._done([meta.seq], [])
        self.cluster.ended[meta.function].append(self._loop.time())
        if instance.finished:
            self._loop.call_later(EXIT_S, self._remove, instance)

    def _done(self, done: list[int], refused: list[tuple[int, str]]) -> None:
        self.cluster.net.publish(
            subjects.router_done("r1"), codec.pack(messages.Done(self.name, 1, self._seq, done, refused))
        )

    def _write(self, group: Group) -> None:
        self._loop.call_later(ROUTE_S, self._written, group)

    def _written(self, group: Group) -> None:
        ids = group.in_service()
        route = Route(epoch=1, instances=ids, slots=len(ids) * group.concurrency)
        key = storage.route_key(self.name, group.version, group.function)
        self.cluster.on_route(key, records.encode(route) if ids else None)

    def heartbeat(self) -> None:
        instances: dict[str, dict[str, records.VersionLoad]] = {}
        for group in self.pool.groups.values():
            instances.setdefault(group.function, {})[str(group.version)] = group.load()
        load = records.NodeLoad(
            node=self.name,
            epoch=1,
            seq=1,
            memory_mb=self.pool.memory_mb,
            memory_used_mb=self.pool.memory_used_mb,
            cpu_percent=0,
            instances=instances,
            routers={"r1": RouterSeen(last_seq=self._seq, calls=sorted(self._running))},
        )
        self.cluster.net.publish(subjects.load_node(self.name), records.encode(load))


class Outcome(NamedTuple):
    function: str
    arrived: float
    began: float | None  # None: it was answered by the router
    error: errors.CallError | None

    @property
    def wait_s(self) -> float:
        assert self.began is not None
        return self.began - self.arrived


class Cluster:
    """``cold_s``: how long an instance takes to be ready."""

    def __init__(self, nodes: int, node_mb: int, cold_s: float, *, tells_of_room: bool = True) -> None:
        self.net = Net()
        self.cold_s = cold_s
        self.tells_of_room = tells_of_room
        self.specs: dict[str, VersionSpec] = {}
        self.starts: Counter[str] = Counter()
        self.stops: Counter[str] = Counter()
        self.ended: dict[str, list[float]] = {}
        self.refused = 0  # calls that found no slot where the router saw one
        self.outcomes: list[Outcome] = []
        self._begun: dict[str, float] = {}  # by invocation's reply
        self._tasks: set[asyncio.Task[Any]] = set()
        self._died: list[BaseException] = []
        self._loop = asyncio.get_running_loop()
        bus = cast(Bus, self.net)
        self.state = State("r1", 10**9, self._loop.time)
        self.state.members = RouterMembers(epoch=1, members={"r1": Client(server="s", id=1)})
        self.dispatch = Dispatch(bus, self.state, 10.0, self._loop.call_soon)
        self.orders = Orders(bus, self.state, self.dispatch, self.background, _never)
        self.fleet = Fleet(bus, self.state, self.dispatch, self.background, _never)
        self.dispatch.attach(act=self.orders.act, divert=_never, stale=_never, keyed=_never, again=_never)
        self._activators = ActivatorFleet(self._loop.time)
        self._starter = Starter(bus, self._activators)
        self._connect()
        self.workers = [Worker(self, f"n{k}", node_mb) for k in range(1, nodes + 1)]

    def _connect(self) -> None:
        receive = self.net.receive
        receive(subjects.router_done("r1"), self.dispatch.on_done)
        receive(subjects.SHARES, Limits(self.state, self.dispatch).on_shares)
        receive(subjects.ACTIVATE, lambda _s, reply, _r, frame: self.background("place", self._place(reply, frame)))

    async def _place(self, reply: bytes, frame: bytes) -> None:
        order, _ = codec.Unpacker(messages.Activate)(frame)
        self.net.publish(reply, codec.pack(await self._starter.start(order)))

    def on_route(self, key: str, value: bytes | None) -> None:
        self.fleet.on_route(key, value)
        self._activators.on_route(key, value)

    def _on_load(self, subject: bytes, reply: bytes, raw: bytes | None, payload: bytes) -> None:
        self._activators.on_load(subject, reply, raw, payload)
        self.fleet.on_load(subject, reply, raw, payload)

    def background(self, _name: str, coroutine: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self._died.append(error)

    async def start(self) -> None:
        """Everybody knows everybody on return."""
        for worker in self.workers:
            self.net.receive(subjects.load_node(worker.name), self._on_load)
            lease = records.encode(self.lease(worker))
            self.fleet.on_lease(worker.name, lease)
            self._activators.on_lease(worker.name, lease)
        self.background("ticks", self._tick())
        self.background("heartbeats", self._beat())
        await asyncio.sleep(0.1)
        self.dispatch.may_order = True

    def lease(self, worker: Worker) -> NodeLease:
        client = Client(server="s", id=2 + self.workers.index(worker))
        return NodeLease(node=worker.name, epoch=1, client=client, memory_mb=worker.pool.memory_mb, cores=8)

    def stop(self) -> None:
        """Raises what any of the tasks died of."""
        for task in self._tasks:
            task.cancel()
        for error in self._died:
            raise error

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            now = self._loop.time()
            self.fleet.tick(now, 0.0)
            self.dispatch.tick(now)

    async def _beat(self) -> None:
        while True:
            for worker in self.workers:
                worker.heartbeat()
            for function in list(self.state.awake):
                self.state.look_at(function, self._loop.time())
            loads = {name: records.decode(raw, FunctionLoad) for name, raw in self.state.loads.current.items()}
            self.net.publish(
                subjects.load_router("r1"), records.encode(RouterLoad(router="r1", epoch=1, functions=loads))
            )
            self.state.loads.told()
            await asyncio.sleep(HEARTBEAT_S)

    def deploy(self, name: str, **fields: Any) -> Function:
        package = Package(sha256="0", size=1, format="py", filename="f.py")
        spec = VersionSpec(name=name, version=1, runtime="python", handler="f:f", package=package, created="", **fields)
        function = Function(name, self.state.backlog, self.state.allotments)
        function.apply({1: spec}, 1, self._loop.time())
        self.specs[name], self.ended[name] = spec, []
        self.state.functions[name] = function
        self.net.receive(
            subjects.call(name),
            lambda s, reply, raw, payload: self.dispatch.on_call(function, 0, s, reply, raw, payload),
        )
        return function

    def began(self, meta: messages.Invoke) -> None:
        self._begun[meta.reply] = self._loop.time()

    async def call(self, function: str, service_s: float) -> Outcome:
        """One call, from its arrival at the router on."""
        arrived = self._loop.time()
        inbox = f"_INBOX.{next(self.net._inboxes)}.x"
        answer = self.net._answers[inbox] = self._loop.create_future()
        self.net.publish(subjects.call(function), b"%.6f" % service_s, reply=inbox)
        reply = await answer
        error = errors.from_reply(reply.headers, reply.payload)
        outcome = Outcome(function, arrived + HOP_S, self._begun.pop(inbox, None), error)
        self.outcomes.append(outcome)
        return outcome


class Scaler:
    """Leads, and has no nodes to add."""

    def __init__(self, cluster: Cluster) -> None:
        bus, receive = cast(Bus, cluster.net), cluster.net.receive
        self._functions: dict[str, ScaledFunction] = {}
        reports = self._reports = Reports(bus, asyncio.get_running_loop().time)
        reports.on_router.append(self._heard)
        for worker in cluster.workers:
            reports.leases[worker.name] = cluster.lease(worker)
            receive(subjects.load_node(worker.name), reports._node)
        receive(subjects.load_router("r1"), reports._router)
        receive(subjects.BLOCKED, reports._no_place)
        self._sharing = Sharing(
            bus,
            cast(Any, SimpleNamespace(leading=True, epoch=1)),
            reports,
            cast(Any, SimpleNamespace(current=cluster.specs.get)),
            cast(Any, defaultdict(FunctionTarget)),
            self._functions,
            lambda: False,
        )
        cluster.background("scaler", self._run())

    def _heard(self, news: News) -> None:
        for name, load in news.functions.items():
            function = self._functions.setdefault(name, ScaledFunction(name, Learning()))
            function.heard(load, self._reports.clock(), news.elapsed_s)

    async def _run(self) -> None:
        while True:
            self._sharing.share()
            await asyncio.sleep(1.0)


def _never(*_: object) -> None:
    raise AssertionError("nothing of the kind happens here")
