"""Keeps consumers, schedules and events as they should be: what the reconciler does beside collecting leftovers."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import TypeVar

import msgspec
import structlog

from mayfly_chassis import jetstream
from mayfly_chassis.bus import Bus
from mayfly_proto import storage, subjects
from mayfly_registry import repair, retention
from mayfly_registry.consumers import Info
from mayfly_registry.errors import Refusal
from mayfly_registry.repair import Wishes
from mayfly_registry.retention import Kept
from mayfly_registry.store import Store
from mayfly_registry.wanted import Consumer
from mayfly_registry.wiring import Wiring

T = TypeVar("T")

_AT_ONCE = 64  # requests to the server

_log = structlog.get_logger()


class Upkeep:
    """Each method raises `BusError`; the next round goes on where one stopped."""

    def __init__(self, bus: Bus, store: Store, wiring: Wiring) -> None:
        self._bus = bus
        self._store = store
        self._wiring = wiring

    async def consumers_and_schedules(self, young: datetime) -> None:
        """``young``: what was made after that may belong to a deploy that is on its way."""
        specs, (records, broken) = (await self._store.specs()).values(), await self._store.snapshot()
        wishes = repair.wishes(specs, records, broken, young)
        found = await self._wiring.consumers.on(repair.streams(specs))
        plan = repair.plan(wishes, found, records, young)
        await _each(self._make, plan.make)
        for info in plan.remove:
            await self._remove(info, young)
        for consumer in (*plan.pause, *plan.resume):
            await self._pause(consumer)
        await self._schedules(wishes, young)

    async def events(self, now: datetime, keep_s: float) -> None:
        """Remove those that may go."""
        info = await jetstream.api(self._bus, subjects.stream_info(storage.EVENTS))  # before the consumers
        kept = Kept(
            first_sequence=info["state"]["first_seq"],
            last_sequence=info["state"]["last_seq"],
            size=info["state"]["bytes"],
            size_limit=info["config"]["max_bytes"],
        )
        if not info["state"]["messages"]:
            return
        consumers = await self._wiring.consumers.on([storage.EVENTS])
        since = now - timedelta(seconds=keep_s)
        young = await jetstream.first(self._bus, storage.EVENTS, subjects.EVENTS, since=since)
        below = retention.purge_below(kept, consumers, young.sequence if young else None)
        if below is not None:
            await jetstream.api(self._bus, subjects.stream_purge(storage.EVENTS), {"seq": below})
            _log.info("events.removed", below=below)

    async def _make(self, consumer: Consumer) -> None:
        record = await self._store.find(consumer.function)
        if record is None:
            return
        try:
            await self._wiring.consumers.ensure(consumer, paused=record.record.paused)
            _log.warning("consumer.made_again", function=consumer.function, stream=consumer.stream)
        except Refusal as error:  # the stream is gone, or somebody else's consumer has that name
            _log.warning("consumer.impossible", function=consumer.function, error=str(error))

    async def _remove(self, info: Info, young: datetime) -> None:
        if repair.removable(await self._wishes_of(info.function, young), info, young):
            await self._wiring.consumers.remove(info.function, *info.key)
            _log.info("consumer.removed", function=info.function, stream=info.stream, consumer=info.name)

    async def _pause(self, consumer: Consumer) -> None:
        """As the record says now: it may have changed since the plan."""
        if found := await self._store.find(consumer.function):
            await self._wiring.consumers.pause(*consumer.key, paused=found.record.paused)

    async def _schedules(self, wishes: Wishes, young: datetime) -> None:
        found = await jetstream.counts(self._bus, storage.SCHEDULES, subjects.SCHEDULES)
        strays = await self._wiring.find_schedules(repair.stray_schedules(found, wishes))
        for subject, message in strays.items():
            if message.time < young:
                await self._wiring.purge(subject)
                _log.info("schedule.removed", subject=subject)
        due = await jetstream.counts(self._bus, storage.SCHEDULES, subjects.ALL_DUE)
        for function in repair.stray_due(due, wishes):
            await self._remove_due(function, young)
        late = {schedule.function for schedule in await self._wiring.differing(wishes.schedules.values())}
        await _each(lambda function: self._schedule(function, young), sorted(late))

    async def _remove_due(self, function: str, young: datetime) -> None:
        """What is due for a function that is gone, and is old: one deployed meanwhile keeps what is its own."""
        newest = await jetstream.last(self._bus, storage.SCHEDULES, subjects.due(function))
        if newest is not None and newest.time < young and not await self._store.exists(function):
            await self._wiring.purge(subjects.due(function), up_to=newest.sequence)
            _log.info("due.removed", function=function)

    async def _schedule(self, function: str, young: datetime) -> None:
        fresh = await self._wishes_of(function, young)  # it may have been deployed since
        await self._wiring.schedule(fresh.schedules.values(), replace=True)
        _log.warning("schedules.made_again", function=function)

    async def _wishes_of(self, function: str, young: datetime) -> Wishes:
        specs = await self._store.specs_of(function)
        try:
            found = await self._store.find(function)
        except msgspec.MsgspecError:
            return repair.wishes(specs, {}, [function], young)
        return repair.wishes(specs, {function: found.record} if found else {}, [], young)


async def _each(work: Callable[[T], Awaitable[None]], items: Sequence[T]) -> None:
    for start in range(0, len(items), _AT_ONCE):
        await asyncio.gather(*map(work, items[start : start + _AT_ONCE]))
