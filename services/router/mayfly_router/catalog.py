"""Which functions there are and which of them are this router's: its subscriptions follow from that.

A function changes hands in an order that leaves no moment without a subscriber: the new owner subscribes, says so in
its answer to a ping (the epoch it has carried out), and only then the old one lets go. Until then calls that reach the
old one are handed over one by one.
"""

import asyncio
from contextlib import suppress
from functools import partial
from typing import NamedTuple

import structlog

from mayfly_chassis.bus import Bus, Subscription
from mayfly_chassis.errors import BusError, NoResponders
from mayfly_chassis.frames import Callback
from mayfly_chassis.mirror import Mirror
from mayfly_proto import ownership, records, storage, subjects
from mayfly_proto.records import FunctionRecord, RouterMembers, VersionSpec
from mayfly_router import replies
from mayfly_router.dispatch import Dispatch
from mayfly_router.durable.events import Events
from mayfly_router.fleet import Fleet
from mayfly_router.function import Change, Function
from mayfly_router.handover import Handovers
from mayfly_router.orders import Background, Orders
from mayfly_router.state import State
from mayfly_router.targets import Targets

PEERS_S = 3.0  # that the new owners may take until the old one lets go all the same
PING_S = 0.2
RETRY_S = 0.02

_log = structlog.get_logger()


class Wanted(NamedTuple):
    """A subscription."""

    subject: str
    queue: str


class Catalog:
    def __init__(
        self,
        bus: Bus,
        state: State,
        dispatch: Dispatch,
        orders: Orders,
        fleet: Fleet,
        handovers: Handovers,
        events: Events,
        targets: Targets,
        background: Background,
    ) -> None:
        self._bus = bus
        self._state = state
        self._dispatch = dispatch
        self._orders = orders
        self._fleet = fleet
        self._handovers = handovers
        self._events = events
        self._targets = targets
        self._background = background
        self._functions = Mirror(bus, storage.FUNCTIONS, self._on_function)
        self._versions = Mirror(bus, storage.VERSIONS, self._on_version)
        self._records: dict[str, FunctionRecord] = {}
        self._subscriptions: dict[Wanted, tuple[Subscription, Function]] = {}
        self._work = asyncio.Event()
        self._closing = False
        self._epoch_done = 0  # of the members, as far as subscriptions follow it
        self._subscribed = asyncio.Event()
        self._released = asyncio.Event()

    async def start(self) -> None:
        """The mirrors are loaded on return."""
        await self._versions.start()
        await self._functions.start()

    async def stop(self) -> None:
        await self._functions.stop()
        await self._versions.stop()

    async def subscribed(self) -> None:
        """Wait until every function that is ours for now can be called."""
        await self._subscribed.wait()

    async def release(self) -> None:
        """Wait until nothing is subscribed any longer: the others have taken over, or, alone, `close` was called."""
        await self._released.wait()

    def close(self) -> None:
        """Take no more calls, and pull no more events; outcomes are still heard."""
        self._closing = True
        self._work.set()

    def reassign(self, members: RouterMembers) -> None:
        """The members have changed: give away and take over."""
        self._state.members = members
        for name in list(self._state.functions):
            if not self._is_ours(name):
                self._give_away(name)
        for name in self._records:
            if name not in self._state.functions:
                self._apply(name)
        self._fleet.adopt_all()
        self._handovers.catch_up()
        self._subscribed.clear()
        self._work.set()
        if self._state.leaving:
            self._background("let go", self._let_go(members, dict(self._state.leaving)))
        _log.info("members.changed", epoch=members.epoch, members=sorted(members.members))

    def on_ping(self, _subject: bytes, reply: bytes, _raw: bytes | None, _payload: bytes) -> None:
        if reply:
            self._bus.publish(reply, b"%d" % self._epoch_done)

    async def keep(self) -> None:
        """Have the subscriptions follow. Runs until cancelled."""
        while True:
            await self._work.wait()
            self._work.clear()
            try:
                await self._follow()
            except BusError as error:
                _log.warning("subscriptions.unreachable", error=str(error))
                self._work.set()
                await asyncio.sleep(PING_S)

    def _is_ours(self, name: str) -> bool:
        return ownership.owner(name, self._state.members.members) == self._state.router

    def _on_function(self, name: str, value: bytes | None) -> None:
        if value is None:
            self._records.pop(name, None)
            self._state.leaving.pop(name, None)
            if function := self._state.functions.pop(name, None):
                self._carry_out(name, function.delete())
                self._events.release(function)
        else:
            self._records[name] = records.decode(value, FunctionRecord)
            self._apply(name)
        self._work.set()

    def _on_version(self, key: str, value: bytes | None) -> None:
        name = key.rpartition(".")[0]
        if value is not None and name in self._records:
            self._apply(name)

    def _apply(self, name: str) -> None:
        """Bring a function of ours to what its record says, as far as the specs are known already."""
        record = self._records[name]
        if not self._is_ours(name):
            return
        function = self._state.functions.get(name) or Function(name, self._state.backlog)
        known = function.pools.copy()
        versions = sorted({*record.versions, record.current})
        specs = {version: spec for version in versions if (spec := self._spec(function, version))}
        if record.current not in specs:
            return  # it is on its way: `_on_version` comes back
        self._state.functions[name] = function
        before = function.current
        self._carry_out(name, function.apply(specs, record.current, self._state.clock()))
        if before is not None and before is not function.current:
            self._events.changed(function, before.spec)
        for version, pool in function.pools.items():
            if version not in known:
                self._fleet.equip(pool)
        self._targets.equip(function)
        self._work.set()

    def _spec(self, function: Function, version: int) -> VersionSpec | None:
        if pool := function.pools.get(version):
            return pool.spec
        raw = self._versions.get(storage.version_key(function.name, version))
        return None if raw is None else records.decode(raw, VersionSpec)

    def _carry_out(self, name: str, change: Change) -> None:
        for pool, call in change.orphans:
            missing = replies.not_found(name, call.pinned and pool.version, call.invocation)
            self._dispatch.fail(call, missing, pool)
        for stopping in change.stops:
            self._orders.stop(stopping)

    def _give_away(self, name: str) -> None:
        function = self._state.functions.pop(name)
        self._state.leaving[name] = function
        for call in function.leave():
            self._handovers.divert(call, name)
        self._events.release(function)

    async def _let_go(self, members: RouterMembers, leaving: dict[str, Function]) -> None:
        """Unsubscribe from what is others' when they have subscribed."""
        with suppress(TimeoutError):
            async with asyncio.timeout(PEERS_S):
                for peer in members.members.keys() - {self._state.router}:
                    await self._wait_for(peer, members.epoch)
        for name, function in leaving.items():
            if self._state.leaving.get(name) is function:
                del self._state.leaving[name]
        self._work.set()

    async def _wait_for(self, peer: str, epoch: int) -> None:
        """Until the peer says that its subscriptions follow this epoch, or is gone."""
        while True:
            try:
                answer = await self._bus.request(subjects.router_ping(peer), timeout_s=PING_S)
                if answer.payload.isdigit() and int(answer.payload) >= epoch:
                    return
            except NoResponders:
                return  # what it was to own goes to somebody else in the next epoch
            except BusError:
                pass
            await asyncio.sleep(RETRY_S)

    async def _follow(self) -> None:
        epoch = self._state.members.epoch
        wanted = self._wanted()
        outdated = []
        for key, (function, callback) in wanted.items():
            present = self._subscriptions.get(key)
            if present is None or present[1] is not function:
                subscription = await self._bus.subscribe(key.subject, callback, queue=key.queue)
                self._subscriptions[key] = (subscription, function)
                outdated += [present[0]] if present else []
        outdated += [self._subscriptions.pop(key)[0] for key in self._subscriptions.keys() - wanted.keys()]
        await self._events.follow({} if self._closing else self._state.functions)
        await self._bus.flush()
        self._epoch_done = epoch
        self._subscribed.set()
        await asyncio.gather(*(subscription.unsubscribe() for subscription in outdated))
        if self._closing or not self._subscriptions:
            self._released.set()
        else:
            self._released.clear()

    def _wanted(self) -> dict[Wanted, tuple[Function, Callback]]:
        wanted: dict[Wanted, tuple[Function, Callback]] = {}
        for function in (*self._state.leaving.values(), *self._state.functions.values()):
            name, router = function.name, subjects.ROUTER_QUEUE
            for subject, callback in self._events.outcomes(function):
                wanted[Wanted(subject, router)] = (function, callback)
            if self._closing:
                continue
            for subject, callback in self._events.wishes(function):
                wanted[Wanted(subject, router)] = (function, callback)
            wanted[Wanted(subjects.call(name), router)] = (function, partial(self._dispatch.on_call, function, 0))
            for version in function.pools:
                callback = partial(self._dispatch.on_call, function, version)
                wanted[Wanted(subjects.call(name, version), router)] = (function, callback)
            for subject in function.subjects:
                callback = partial(self._dispatch.on_message, function)
                wanted[Wanted(subject, subjects.trigger_queue(name))] = (function, callback)
        return wanted
