"""What this router is subscribed to: what its functions ask for, and nothing else.

Only functions that have changed are looked at, a few at a time, so that a deploy costs the same among ten functions and
among ten thousand, and calls go on while thousands change hands. Between two lots the server is waited for: it takes up
subscriptions in the order in which it reads, and calls that we forward would stand behind all of them.

A function that is ours by the members need not exist here yet (`State.owned`): it is made when its turn comes.
"""

import asyncio
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice
from typing import NamedTuple

import structlog

from mayfly_chassis.bus import Bus, Subscription
from mayfly_chassis.errors import BusError
from mayfly_chassis.frames import Callback
from mayfly_proto import subjects
from mayfly_router.dispatch import Dispatch
from mayfly_router.durable.events import Events
from mayfly_router.function import Function
from mayfly_router.state import State

LOT = 32  # functions between two moments in which others have their turn
RETRY_S = 0.2

_log = structlog.get_logger()


class Wanted(NamedTuple):
    subject: str
    queue: str


class Held(NamedTuple):
    """What there is for one function."""

    function: Function
    subscriptions: dict[Wanted, Subscription]


class Subscriptions:
    def __init__(self, bus: Bus, state: State, dispatch: Dispatch, events: Events) -> None:
        self._bus = bus
        self._state = state
        self._dispatch = dispatch
        self._events = events
        self._held: dict[str, Held] = {}
        self._changed: dict[str, None] = {}  # functions to be looked at, the first first
        self._outdated: list[Subscription] = []
        self._work = asyncio.Event()
        self._complete = asyncio.Event()
        self._released = asyncio.Event()
        self._released.set()
        self._closing = False
        self._epoch_done = 0  # of the members, as far as this follows it

    def __repr__(self) -> str:
        count = sum(len(held.subscriptions) for held in self._held.values())
        return f"<Subscriptions: {count} for {len(self._held)} functions, {len(self._changed)} to be looked at>"

    def changed(self, names: Iterable[str]) -> None:
        """Have what these functions ask for followed soon, in this order."""
        self._changed |= dict.fromkeys(names)
        self._released.clear()
        self._work.set()

    def members_changed(self, names: Iterable[str]) -> None:
        """The same, of a new epoch; `complete` and `on_ping` tell when it is done."""
        self._complete.clear()
        self.changed(names)

    async def complete(self) -> None:
        """Wait until every function that is ours for now can be called."""
        await self._complete.wait()

    async def release(self) -> None:
        """Wait until nothing is subscribed any longer: the others have taken over, or, alone, `close` was called."""
        await self._released.wait()

    def close(self) -> None:
        """Take no more calls, and pull no more events; outcomes are still heard."""
        self._closing = True
        self.changed(self._held)

    def on_ping(self, _subject: bytes, reply: bytes, _raw: bytes | None, _payload: bytes) -> None:
        if reply:
            self._bus.publish(reply, b"%d" % self._epoch_done)

    async def keep(self) -> None:
        """Follow. Runs until cancelled."""
        while True:
            await self._work.wait()
            self._work.clear()
            try:
                await self._follow()
            except BusError as error:
                _log.warning("subscriptions.unreachable", error=str(error))
                self._work.set()
                await asyncio.sleep(RETRY_S)

    async def _follow(self) -> None:
        epoch = self._state.members.epoch
        while self._changed:
            await self._renew_lot()
        if epoch != self._state.members.epoch:
            self._work.set()  # what the new members ask for was among it, or comes now
            return
        self._epoch_done = epoch
        self._complete.set()
        outdated, self._outdated = self._outdated, []
        await self._bus.unsubscribe(outdated)
        if not self._changed and (self._closing or not self._held):
            self._released.set()

    async def _renew_lot(self) -> None:
        feeds: list[Subscription] = []
        for name in list(islice(self._changed, LOT)):
            del self._changed[name]
            feeds += await self._renew(name)
        await self._bus.unsubscribe(feeds)
        await self._bus.flush()

    async def _renew(self, name: str) -> list[Subscription]:
        """Bring one function's subscriptions to what it asks for. Returns those that are to end at once."""
        owned = None if self._closing else self._state.owned(name)
        self._changed.pop(name, None)  # if it was made just now it has said so
        function = self._state.known(name)
        held = self._held.pop(name, None)
        before = held.subscriptions if held is not None and held.function is function else {}
        subscriptions: dict[Wanted, Subscription] = {}
        for key, callback in self._wanted(function) if function is not None else ():
            present = before.pop(key, None)
            subscriptions[key] = present or await self._bus.subscribe(key.subject, callback, queue=key.queue)
        if function is not None and subscriptions:
            self._held[name] = Held(function, subscriptions)
        self._outdated += held.subscriptions.values() if held is not None else ()
        return await self._events.follow(name, owned)

    def _wanted(self, function: Function) -> Iterator[tuple[Wanted, Callback]]:
        name, router = function.name, subjects.ROUTER_QUEUE
        for subject, callback in self._events.outcomes(function):
            yield Wanted(subject, router), callback
        if self._closing:
            return
        for subject, callback in self._events.wishes(function):
            yield Wanted(subject, router), callback
        yield Wanted(subjects.call(name), router), partial(self._dispatch.on_call, function, 0)
        for version in function.pools:
            yield Wanted(subjects.call(name, version), router), partial(self._dispatch.on_call, function, version)
        for subject in function.subjects:
            yield Wanted(subject, subjects.trigger_queue(name)), partial(self._dispatch.on_message, function)
