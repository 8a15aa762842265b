"""The verb that lists schedules with their next times."""

from datetime import datetime

from mayfly_proto import api
from mayfly_proto.records import Trigger, VersionSpec
from mayfly_registry import draft, schedules, wanted
from mayfly_registry.errors import InvalidRequest
from mayfly_registry.store import Store
from mayfly_registry.wiring import Wiring

COUNT_LIMIT = 100


class Timetable:
    """Raises `Refusal` or `BusError`."""

    def __init__(self, store: Store, wiring: Wiring) -> None:
        self._store = store
        self._wiring = wiring

    async def schedules(self, request: api.SchedulesRequest, now: datetime) -> list[api.Schedule]:
        if not 0 <= request.count <= COUNT_LIMIT:
            raise InvalidRequest(f"count: {request.count} must be from 0 to {COUNT_LIMIT}")
        specs, paused = await self._current(request.function)
        asked = [(spec, trigger) for spec in specs for trigger in spec.triggers if trigger.schedule]
        intervals = [wanted.schedule_subject(s.name, t) for s, t in asked if schedules.every(t.schedule)]
        made = {subject: stored.time for subject, stored in (await self._wiring.find_schedules(intervals)).items()}
        return [
            _row(spec, trigger, spec.name in paused, request.count, now, made)
            for spec, trigger in sorted(asked, key=lambda row: (row[0].name, row[1].number))
        ]

    async def _current(self, function: str | None) -> tuple[list[VersionSpec], set[str]]:
        if function is not None:
            record = await self._store.record(draft.check_name(function))
            return [await self._store.spec(function, record.current)], {function} if record.paused else set()
        records = await self._store.records()
        return await self._store.current_specs(), {name for name, record in records.items() if record.paused}


def _row(
    spec: VersionSpec, trigger: Trigger, paused: bool, count: int, now: datetime, made: dict[str, datetime]
) -> api.Schedule:
    since = made.get(wanted.schedule_subject(spec.name, trigger))
    times = schedules.next_times(trigger.schedule, trigger.timezone, now, count, since)
    return api.Schedule(
        function=spec.name,
        number=trigger.number,
        schedule=trigger.schedule,
        timezone=trigger.timezone or "UTC",
        next=[] if paused else times,
        paused=paused,
    )
