"""Which functions there are and which of them are this router's.

A function changes hands in an order that leaves no moment without a subscriber: the new owner subscribes, says so in
its answer to a ping (the epoch it has carried out), and only then the old one lets go. Until then calls that reach the
old one are handed over one by one.

To give a function away is a matter of the moment, for from the new epoch on its calls are another's. To take one over
is not: those that are new here are made one after the other, those with instances first, or at once when they are asked
for (`State.owned`).
"""

import asyncio
from collections.abc import Collection
from contextlib import suppress

import structlog

from mayfly_chassis.bus import Bus
from mayfly_chassis.errors import BusError, NoResponders
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
from mayfly_router.subscriptions import Subscriptions
from mayfly_router.targets import Targets

PEERS_S = 3.0  # that the new owners may take until the old one lets go all the same
PING_S = 0.2
RETRY_S = 0.02

_log = structlog.get_logger()


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
        subscriptions: Subscriptions,
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
        self._subscriptions = subscriptions
        self._background = background
        self._functions = Mirror(bus, storage.FUNCTIONS, self._on_function)
        self._versions = Mirror(bus, storage.VERSIONS, self._on_version)
        self._records: dict[str, FunctionRecord] = {}
        self._arriving: set[str] = set()  # ours, and not made yet
        self._met: set[str] = set()  # routers that were members at some time
        state.make = self._make

    async def start(self) -> None:
        """The mirrors are loaded on return."""
        await self._versions.start()
        await self._functions.start()

    async def stop(self) -> None:
        await self._functions.stop()
        await self._versions.stop()

    def reassign(self, members: RouterMembers) -> None:
        """The members have changed: give away and take over."""
        state = self._state
        state.members = members
        self._met |= members.members.keys() - {state.router}
        ours = {name for name in self._records if self._is_ours(name)}
        leaving = [name for name in state.functions if name not in ours]
        self._give_away(leaving)
        self._arriving = ours.difference(state.functions)
        self._fleet.adopt_all()
        self._handovers.catch_up()
        self._subscriptions.members_changed([*leaving, *sorted(self._arriving, key=self._fleet.has_none)])
        if state.leaving:
            self._background("let go", self._let_go(members, dict(state.leaving)))
        _log.info("members.changed", epoch=members.epoch, members=sorted(members.members))

    async def outlast(self) -> None:
        """This router has left. Wait for all others that are there, members or not: one that leaves at the same time
        hands its calls over to this one until it knows better."""
        await self._followed(frozenset(self._met), self._state.members.epoch)

    def _is_ours(self, name: str) -> bool:
        return ownership.owner(name, self._state.members.members) == self._state.router

    def _on_function(self, name: str, value: bytes | None) -> None:
        if value is None:
            self._records.pop(name, None)
            self._arriving.discard(name)
            self._state.leaving.pop(name, None)
            if function := self._state.functions.pop(name, None):
                self._state.wake(function)
                self._carry_out(name, function.delete())
                self._events.release([function])
            self._subscriptions.changed([name])
        else:
            self._records[name] = records.decode(value, FunctionRecord)
            self._apply(name)

    def _on_version(self, key: str, value: bytes | None) -> None:
        name = key.rpartition(".")[0]
        if value is not None and name in self._records:
            self._apply(name)

    def _make(self, name: str) -> Function | None:
        if name in self._arriving:
            self._apply(name)
        return self._state.functions.get(name)

    def _apply(self, name: str) -> None:
        """Bring a function of ours to what its record says, as far as the specs are known already."""
        record = self._records[name]
        if not self._is_ours(name):
            return
        function = self._state.functions.get(name) or Function(name, self._state.backlog, self._state.allotments)
        known = function.pools.copy()
        versions = sorted({*record.versions, record.current})
        specs = {version: spec for version in versions if (spec := self._spec(function, version))}
        if record.current not in specs:
            return  # it is on its way: `_on_version` comes back
        self._arriving.discard(name)
        self._state.functions[name] = function
        before = function.current
        self._carry_out(name, function.apply(specs, record.current, self._state.clock()))
        if before is not None and before is not function.current:
            self._events.changed(function, before.spec)
        for version, pool in function.pools.items():
            if version not in known:
                self._fleet.equip(pool)
        self._targets.equip(function)
        self._subscriptions.changed([name])

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

    def _give_away(self, names: list[str]) -> None:
        leaving = {name: self._state.functions.pop(name) for name in names}
        self._state.leaving |= leaving
        for name, function in leaving.items():
            self._state.wake(function)
            for call in function.leave():
                self._handovers.divert(call, name)
        self._events.release(leaving.values())

    async def _let_go(self, members: RouterMembers, leaving: dict[str, Function]) -> None:
        """Unsubscribe from what is others' when they have subscribed."""
        await self._followed(members.members.keys() - {self._state.router}, members.epoch)
        for name, function in leaving.items():
            if self._state.leaving.get(name) is function:
                del self._state.leaving[name]
        self._subscriptions.changed(leaving)

    async def _followed(self, peers: Collection[str], epoch: int) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(PEERS_S):
                for peer in peers:
                    await self._wait_for(peer, epoch)

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
