"""Events and durable calls of this router's functions: the parts, put together, and what others need of them."""

import asyncio
import secrets
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from functools import partial

from mayfly_chassis.bus import Bus, Subscription
from mayfly_chassis.frames import Callback
from mayfly_proto import subjects
from mayfly_proto.records import VersionSpec
from mayfly_router.dispatch import Dispatch
from mayfly_router.durable.admission import Admission
from mayfly_router.durable.cancel import Cancel
from mayfly_router.durable.claims import Claims
from mayfly_router.durable.durable import Durable
from mayfly_router.durable.errands import Errands
from mayfly_router.durable.intake import Intake
from mayfly_router.durable.keyed import Keyed
from mayfly_router.durable.settler import Settler
from mayfly_router.durable.stored import Stored
from mayfly_router.function import Function
from mayfly_router.orders import Background
from mayfly_router.state import State


class Events:
    """``soon``: the event loop's `call_soon`."""

    def __init__(
        self,
        bus: Bus,
        state: State,
        dispatch: Dispatch,
        background: Background,
        soon: Callable[[Callable[[], None]], object],
    ) -> None:
        self._errands = Errands(background)
        errand = self._errands.run
        claims, settler = Claims(bus), Settler(bus, errand)
        stored = Stored(bus, settler, errand)
        self.keyed = Keyed(bus, state, dispatch, claims, errand)
        self.durable = Durable(
            bus,
            state,
            dispatch,
            settler,
            stored,
            unix=time.time,
            jitter=secrets.SystemRandom().random,
            pull=lambda source: self._intake.pull(source),
        )
        admission = Admission(state, self.durable, stored, claims, errand, time.time, bus.payload_limit)
        self._intake = Intake(bus, state, admission.admit, admission.opened, soon)
        self._cancel = Cancel(bus, self.durable, errand)

    def outcomes(self, function: Function) -> Iterator[tuple[str, Callback]]:
        """What has to be heard of it as long as anything of it may run."""
        yield subjects.settle_of(function.name), self.durable.on_outcome
        yield subjects.keyed_of(function.name), self.keyed.on_result

    def wishes(self, function: Function) -> Iterator[tuple[str, Callback]]:
        """What is heard of it while it takes anything new."""
        yield subjects.cancel(function.name), partial(self._cancel.on_cancel, function)

    async def follow(self, name: str, function: Function | None) -> list[Subscription]:
        """Pull for the function of that name as it is now, or no longer. Returns the subscriptions that are to end."""
        return await self._intake.follow(name, function)

    def changed(self, function: Function, before: VersionSpec) -> None:
        """Another version is current."""
        self.durable.reline(function, before)

    def release(self, functions: Collection[Function]) -> None:
        """They are another router's now, or gone."""
        self.durable.release(functions)
        self.keyed.release({function.name for function in functions})

    @property
    def running(self) -> bool:
        """Something runs whose outcome is to come here."""
        return bool(self.durable.running or self.keyed.running)

    async def finish(self, limit_s: float) -> None:
        """Nothing new comes: see to the end what is under way. Who waits for a result that somebody else keeps, and
        does not come in that time, gets an error."""
        with suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self._errands.over()
        self.keyed.give_up()
        await self._errands.over()

    def reconnected(self) -> None:
        self._intake.reconnected()

    def tick(self, now: float) -> None:
        self.durable.tick(now)
        self._intake.tick(now)

    def extend(self, function: Function, now: float) -> None:
        """Keep what is held of it; called once a second."""
        self.durable.extend(function, now)

    def every_second(self, now: float) -> None:
        self.durable.look_for_lost(now)
        self.keyed.tick(now)
