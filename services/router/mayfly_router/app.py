"""A router, put together: start and stop on one page."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import msgspec
import structlog

from mayfly_chassis.errors import BusError
from mayfly_chassis.micro import Request
from mayfly_chassis.mirror import Mirror
from mayfly_chassis.service import Chassis
from mayfly_proto import records, storage, subjects
from mayfly_proto.reports import RouterReport
from mayfly_router import drains, farewell
from mayfly_router.catalog import Catalog
from mayfly_router.config import RouterConfig
from mayfly_router.dispatch import Dispatch
from mayfly_router.durable.events import Events
from mayfly_router.fleet import Fleet
from mayfly_router.function import Function
from mayfly_router.handover import Handovers
from mayfly_router.holds import Holds
from mayfly_router.limits import Limits
from mayfly_router.membership import Membership
from mayfly_router.nodes import Node
from mayfly_router.orders import Orders
from mayfly_router.rounds import Rounds
from mayfly_router.state import State
from mayfly_router.subscriptions import Subscriptions
from mayfly_router.targets import Targets

TICK_S = 0.025  # deadlines and timers are this coarse
LATE_S = 1.0  # a tick that comes so late says that this process was paused
STOP_S = 4.0  # that the others may take to take over

_log = structlog.get_logger()


@asynccontextmanager
async def app(chassis: Chassis, config: RouterConfig) -> AsyncIterator[None]:
    router = Router(chassis, config)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(router.close)
        await router.learn()
        stack.push_async_callback(router.leave)  # also from half-way: the others count on it as soon as it is a member
        await router.join()
        yield


class Router:
    def __init__(self, chassis: Chassis, config: RouterConfig) -> None:
        bus = self._bus = chassis.bus
        self._chassis = chassis
        self._config = config
        self.state = State(config.name, config.backlog_mb * 1024 * 1024)
        soon = asyncio.get_running_loop().call_soon
        self._dispatch = Dispatch(bus, self.state, config.wait_s, soon)
        self._orders = Orders(bus, self.state, self._dispatch, chassis.background, self._outdated)
        self._holds = Holds(self.state, self._orders.hold)
        self._targets = Targets(bus, self.state, self._dispatch, self._orders.stop)
        events = self._events = Events(bus, self.state, self._dispatch, chassis.background, soon)
        self._fleet = Fleet(bus, self.state, self._dispatch, chassis.background, events.durable.adopt)
        self._limits = Limits(self.state, self._dispatch)
        self._handovers = Handovers(bus, self.state, self._dispatch, events.durable.give_back_call)
        self._subscriptions = Subscriptions(bus, self.state, self._dispatch, events)
        self._catalog = Catalog(
            bus,
            self.state,
            self._dispatch,
            self._orders,
            self._fleet,
            self._handovers,
            events,
            self._targets,
            self._subscriptions,
            chassis.background,
        )
        self._membership = Membership(bus, config.name, self._catalog.reassign)
        self._nodes = Mirror(bus, storage.NODES, self._fleet.on_lease)
        self._routes = Mirror(bus, storage.ROUTES, self._fleet.on_route)
        self._dispatch.attach(
            act=self._orders.act,
            divert=self._handovers.divert,
            stale=self._refused_by,
            keyed=events.keyed.enter,
            again=events.durable.run_again,
        )

    async def learn(self) -> None:
        """What there is; nobody counts on this router yet."""
        bus, name = self._bus, self._config.name
        await bus.subscribe(subjects.router_done(name), self._dispatch.on_done)
        await bus.subscribe(subjects.router_failed(name), self._orders.on_failed)
        await bus.subscribe(subjects.router_handover(name), self._handovers.on_handover)
        await bus.subscribe(subjects.router_ping(name), self._subscriptions.on_ping)
        await bus.subscribe(subjects.LOAD_NODES, self._fleet.on_load)
        await bus.subscribe(subjects.SHARES, self._limits.on_shares)
        await bus.subscribe(subjects.DISCONNECT, self._on_disconnect)
        await self._chassis.micro.endpoint("state", subjects.router_state(name), self._report)
        for mirror in (self._nodes, self._routes, self._targets, self._catalog):
            await mirror.start()
        bus.on_reconnect(self._on_reconnect)

    async def join(self) -> None:
        """One of the members, and every function that falls to it can be called."""
        self._chassis.background("subscriptions", self._subscriptions.keep())
        await self._membership.join()
        self._chassis.background("membership", self._membership.keep())
        self._chassis.background("ticker", self._tick())
        await self._subscriptions.complete()

    async def leave(self) -> None:
        """Give everything to the others; the last router lets those who wait still be served for a while.

        It goes on hearing until nobody counts on it: the others have taken over, the nodes have seen what it sent, and
        who waited here for somebody else's result has an answer.
        """
        with suppress(TimeoutError, BusError):
            async with asyncio.timeout(self._config.drain_s + STOP_S):
                alone = self.state.members.members.keys() == {self._config.name}
                if alone:
                    self._subscriptions.close()
                    await self._subscriptions.release()
                    await self._drain()
                    self._holds.release()
                await self._membership.leave()
                await self._subscriptions.release()
                await self._catalog.outlast()
                await farewell.hear_out(self._bus, self.state, self._dispatch)
                await self._events.finish(0 if alone else self._config.drain_s)

    async def close(self) -> None:
        for mirror in (self._membership, self._catalog, self._targets, self._routes, self._nodes):
            await mirror.stop()

    async def _drain(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._config.drain_s):
                while self._events.running or any(f.waiting for f in self.state.awake):  # noqa: ASYNC110
                    await asyncio.sleep(TICK_S)

    async def _tick(self) -> None:
        last = self.state.clock()
        rounds = Rounds(self.state, self._look, self._every_second)
        while True:
            await asyncio.sleep(TICK_S)
            now = self.state.clock()
            blind = now - last > LATE_S or not self._bus.connected
            self._fleet.tick(now, now - last if blind else 0.0)
            self._holds.go_on(now)
            self._targets.tick(now)
            self._leave_nodes(now)
            self._dispatch.tick(now)
            self._events.tick(now)
            rounds.tick(now)
            last = now

    def _leave_nodes(self, now: float) -> None:
        if self._dispatch.may_order:
            for stopping in drains.leave(self.state.nodes.values(), self.state.functions, now):
                self._orders.stop(stopping)
                self._dispatch.touch(stopping.pool.name)

    def _look(self, function: Function, now: float) -> None:
        self._events.extend(function, now)
        self.state.look_at(function, now)

    def _every_second(self, now: float) -> None:
        self._holds.step(now)
        self._limits.every_second(now)
        self._events.every_second(now)
        told = self.state.loads.current
        report = RouterReport(router=self._config.name, epoch=self.state.members.epoch, functions=told)
        with suppress(BusError):
            self._bus.publish(subjects.load_router(self._config.name), records.encode(report))
        self.state.loads.told()

    async def _report(self, _request: Request) -> bytes:
        return records.encode(self.state.report())

    def _on_reconnect(self) -> None:
        """What was under way may be lost: ask every node again, and tell the others our new connection."""
        self._fleet.adopt_all()
        self._holds.say_all_again()
        self._events.reconnected()
        self._membership.check()

    def _refused_by(self, node: Node) -> None:
        """The node takes another router for the owner of something that this one sent there."""
        self._fleet.adopt(node)
        self._membership.doubt()

    def _outdated(self) -> None:
        """A node refused to start something for the same reason."""
        self._fleet.adopt_all()
        self._membership.doubt()

    def _on_disconnect(self, _subject: bytes, _reply: bytes, _raw: bytes | None, payload: bytes) -> None:
        event = msgspec.json.decode(payload, type=_Disconnect)
        client = records.Client(server=event.server.id, id=event.client.id)
        self._fleet.disconnected(client)
        self._membership.disconnected(client)


class _Server(msgspec.Struct):
    id: str


class _Client(msgspec.Struct):
    id: int


class _Disconnect(msgspec.Struct):
    """The part of the server's event that says whose connection has ended."""

    server: _Server
    client: _Client
