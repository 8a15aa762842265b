"""Schedules as users write them, as nats-server takes them, and when they are next due.

A user writes five fields of cron, a word for such (``@hourly``), or ``@every 30s``. nats-server, which keeps the time,
wants six fields with the second first. `cronsim` checks them and foretells; what the two understand differently is
refused, so that what is foretold is what happens. Around a daylight-saving change both go by the wall clock: a time
that is skipped does not come that day, and one that comes twice is due twice.
"""

import itertools
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from mayfly_proto.cron import WORDS, five_fields

EVERY_LIMIT_S = 366 * 86_400
NO_ZONE = "is no time zone: its IANA name, for example Europe/Amsterdam"

_EVERY = re.compile(r"@every\s+(?=\d)(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")
_NOT_NATS = re.compile(r"[#?LW]")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class InvalidSchedule(ValueError):
    """``str()`` says what would be right."""


def check(schedule: str) -> None:
    """Raises `InvalidSchedule`."""
    if schedule.startswith("@every"):
        _check_every(schedule)
        return
    if schedule.startswith("@"):
        if schedule not in WORDS:
            raise InvalidSchedule(f"is no word for a schedule: one of {', '.join(WORDS)}, @every 30s")
        return
    fields = schedule.upper().split()
    if len(fields) != 5:
        raise InvalidSchedule(f"has {len(fields)} fields: five are minute, hour, day, month, weekday: */5 * * * *")
    if _NOT_NATS.search(fields[2]) or _NOT_NATS.search(re.sub("[A-Z]{3}", "", fields[4])):
        raise InvalidSchedule("has L, W, ? or # for a day: only numbers, names, lists, ranges and steps are known")
    if any("7" in item.partition("/")[0].split("-") for item in fields[4].split(",")):
        raise InvalidSchedule("has 7 for a weekday: Sunday is 0 or SUN")
    if any(field.startswith("*") and field != "*" for field in (fields[2], fields[4])) and "*" not in (
        fields[2],
        fields[4],
    ):
        raise InvalidSchedule("has a step (*/2) for one kind of day beside the other: write out which days")
    try:
        next(CronSim(six_fields(schedule), _EPOCH))
    except (CronSimError, StopIteration) as error:
        raise InvalidSchedule(f"is no schedule: {str(error).lower() or 'it is never due'}") from None


def is_zone(name: str) -> bool:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return False
    return True


def every(schedule: str) -> timedelta | None:
    """Of an ``@every`` schedule."""
    found = _EVERY.fullmatch(schedule)
    if found is None:
        return None
    hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return timedelta(hours=hours, minutes=minutes, seconds=seconds)


def six_fields(schedule: str) -> str:
    """Of any but ``@every``."""
    return f"0 {five_fields(schedule)}"


def for_server(schedule: str) -> str:
    """As nats-server takes it."""
    return schedule if schedule.startswith("@every") else six_fields(schedule)


def next_times(schedule: str, zone: str, after: datetime, count: int, since: datetime | None = None) -> list[str]:
    """RFC 3339 with the zone's offset. ``since``: when an ``@every`` schedule was made; it keeps that phase."""
    period = every(schedule)
    times = _periodic(period, since or after, after) if period else cron_times(six_fields(schedule), zone, after)
    return [time.isoformat() for time in itertools.islice(times, count)]


def cron_times(fields: str, zone: str, after: datetime) -> Iterator[datetime]:
    """Of six fields: with five cronsim would go by Debian's rules for daylight saving, and nats-server does not."""
    return iter(CronSim(fields, after.astimezone(ZoneInfo(zone) if zone else UTC)))


def _periodic(period: timedelta, since: datetime, after: datetime) -> Iterator[datetime]:
    start = (since + timedelta(seconds=0.5)).replace(microsecond=0)  # the server rounds to seconds
    passed = max((after - start) // period, 0)
    return (start + period * number for number in itertools.count(passed + 1))


def _check_every(schedule: str) -> None:
    if _EVERY.fullmatch(schedule) is None:
        raise InvalidSchedule("is no interval: hours, minutes and seconds, as in @every 30s or @every 1h30m")
    try:
        period = every(schedule)
        assert period is not None
        if not 1 <= period.total_seconds() <= EVERY_LIMIT_S:
            raise OverflowError
    except OverflowError:
        raise InvalidSchedule("is out of range: at least 1 s, at most 366 days") from None
