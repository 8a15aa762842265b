"""How many instances are to be ready at this hour: from each time of ``start`` until the next of ``end``."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import NamedTuple
from zoneinfo import ZoneInfo

from cronsim import CronSim

from mayfly_proto.cron import five_fields
from mayfly_proto.records import Provisioned


class Standing(NamedTuple):
    instances: int
    since: datetime  # when it was looked at
    until: datetime  # when that may change

    def holds(self, now: datetime) -> bool:
        """Not when the clock was put back, either."""
        return self.since <= now < self.until


NEVER = datetime.max.replace(tzinfo=UTC)


def standing(windows: Iterable[Provisioned], now: datetime) -> Standing:
    """``now``: with a zone. Raises `cronsim.CronSimError` for what is no schedule, `ValueError` or
    `ZoneInfoNotFoundError` for what is no zone."""
    instances, until = 0, NEVER
    for window in windows:
        local = now.astimezone(ZoneInfo(window.timezone or "UTC"))
        start, end = _next(window.start, local), _next(window.end, local)
        if end < start:
            instances = max(instances, window.instances)
        until = min(until, start, end)
    return Standing(instances, now, until)


def _next(schedule: str, after: datetime) -> datetime:
    """By Debian's rules, to which cronsim holds with five fields: a time that the change of the clock skips is made up
    for, so that no day lacks its instances."""
    return next(CronSim(five_fields(schedule), after), NEVER)
