"""Makes and removes what `wanted` says: before a version is published what it needs, after it what no one needs.

Made first and removed last, so that whoever dies in between leaves too much rather than too little; `repair` collects
that. A consumer that is there is left as it is, and keeps its position. A schedule that is there is only replaced when
it says something else, so an interval keeps its phase, and never before the version that wants so is published.
"""

import asyncio
from collections.abc import Iterable

from mayfly_chassis import jetstream
from mayfly_chassis.bus import Bus
from mayfly_chassis.jetstream import Stored
from mayfly_proto import headers, storage, subjects
from mayfly_proto.records import VersionSpec
from mayfly_registry import wanted
from mayfly_registry.consumers import Consumers
from mayfly_registry.wanted import Schedule


class Wiring:
    """Each method is idempotent and raises `BusError`."""

    def __init__(self, bus: Bus) -> None:
        self.consumers = Consumers(bus)
        self._bus = bus

    async def prepare(self, spec: VersionSpec, *, paused: bool) -> None:
        """Before ``spec`` is published. Raises `InvalidManifest` for a stream or bucket that does not exist."""
        consumers = wanted.consumers(spec)
        await asyncio.gather(*(self.consumers.ensure(consumer, paused=paused) for consumer in consumers))
        await self.schedule(wanted.scheduled(spec), replace=False)

    async def finish(self, spec: VersionSpec, leaving: Iterable[VersionSpec], *, paused: bool) -> None:
        """After ``spec`` became current: what versions that no longer are had of their own goes."""
        await self.prepare(spec, paused=paused)  # somebody else's `finish` may have come in between
        if paused:  # since it was prepared, perhaps
            await self.pause(spec, paused=True)
        await self.schedule(wanted.scheduled(spec), replace=True)
        kept = {consumer.key for consumer in wanted.consumers(spec)}
        wished = {schedule.subject for schedule in wanted.scheduled(spec)}
        for other in leaving:
            for consumer in wanted.consumers(other):
                if consumer.key not in kept:
                    await self.consumers.remove(spec.name, *consumer.key)
            for schedule in wanted.scheduled(other):
                if schedule.subject not in wished:
                    await self.purge(schedule.subject)

    async def remove(self, function: str, specs: Iterable[VersionSpec]) -> None:
        """All of a function that is deleted, with what is due for it."""
        keys = {consumer.key for spec in specs for consumer in wanted.consumers(spec)}
        keys |= {(stream, storage.call_consumer(function)) for stream in (storage.ASYNC, storage.SCHEDULES)}
        for key in sorted(keys):
            await self.consumers.remove(function, *key)
        await self.purge(subjects.schedule(function, "*"))
        await self.purge(subjects.due(function))

    async def pause(self, spec: VersionSpec, *, paused: bool) -> None:
        consumers = wanted.consumers(spec)
        await asyncio.gather(*(self.consumers.pause(*consumer.key, paused=paused) for consumer in consumers))

    async def schedule(self, schedules: Iterable[Schedule], *, replace: bool) -> None:
        """Publish those that are missing and, with ``replace``, those that say something else."""
        for schedule in await self.differing(schedules, replace=replace):
            fields = headers.block(schedule.headers)
            await jetstream.publish(self._bus, schedule.subject, schedule.payload, headers=fields)

    async def differing(self, schedules: Iterable[Schedule], *, replace: bool = True) -> list[Schedule]:
        asked = list(schedules)
        found = await self.find_schedules(schedule.subject for schedule in asked)
        return [s for s in asked if s.subject not in found or (replace and not _same(found[s.subject], s))]

    async def find_schedules(self, schedule_subjects: Iterable[str]) -> dict[str, Stored]:
        return await jetstream.newest(self._bus, storage.SCHEDULES, list(schedule_subjects))

    async def purge(self, filter_subject: str, *, up_to: int | None = None) -> None:
        """From the stream of schedules; ``up_to``: that sequence, and what is before it."""
        request = {"filter": filter_subject} | ({} if up_to is None else {"seq": up_to + 1})
        await jetstream.api(self._bus, subjects.stream_purge(storage.SCHEDULES), request)


def _same(stored: Stored, schedule: Schedule) -> bool:
    return schedule.same_as(stored.headers, stored.payload)
