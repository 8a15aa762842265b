"""What `mayfly schedules` foretells is what nats-server does: each names the next time of the same schedule.

A fired message carries the time of the next one, so a schedule that is due now tells when it is due again. Changes of
daylight saving are had at will by time zones of our own, which both read.
"""

import asyncio
import struct
import zoneinfo
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mayfly_broker.bootstrap import bootstrap
from mayfly_broker.config import make_passwords
from mayfly_broker.server import EmbeddedServer
from mayfly_chassis import jetstream
from mayfly_chassis.bus import Bus
from mayfly_proto import headers, storage, subjects
from mayfly_registry import schedules

ZONES = ("", "Europe/Amsterdam", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe")
DUE_NOW = (  # second, minute, hour, day, month, weekday of the moment it is to fire
    "{s} {m} {h} * * *",
    "{s} {m} {h},23 * * *",
    "{s} {m} */1 * * *",
    "{s} {m}-59/7 * * * *",
    "{s} {m} {h} {d},1,31 * *",
    "{s} {m} {h} * {mon},2,6 *",
    "{s} {m} {h} * * {dow},mon-tue",
    "{s} {m} {h} 13 * {dow}",
    "{s} {m} {h} {d} * fri",
    "{s} {m} {h} {d} {mon} *",
)


@pytest.fixture
def zones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of time zones for this process and for a server that is started by it."""
    folder = tmp_path / "zones"
    folder.mkdir()
    monkeypatch.setenv("ZONEINFO", str(folder))
    before = zoneinfo.TZPATH
    zoneinfo.reset_tzpath([str(folder), *before])
    yield folder
    zoneinfo.reset_tzpath(before)
    zoneinfo.ZoneInfo.clear_cache()


@pytest.fixture
async def bus(zones: Path, tmp_path: Path) -> AsyncIterator[Bus]:
    with EmbeddedServer(tmp_path / "nats", passwords=make_passwords()) as server:
        password = server.passwords["operator"]
        bus = await Bus.connect(server.url, name="test", role="operator", user="operator", password=password)
        await bootstrap(bus)
        yield bus
        await bus.close()


def write_zone(folder: Path, name: str, at: datetime, jump_s: int) -> None:
    """UTC until ``at``, then by ``jump_s`` ahead: a file as tzfile(5) has it."""
    counts = struct.pack(">6l", 0, 0, 0, 1, 2, 8)
    times = struct.pack(">l", int(at.timestamp())) + b"\1"
    types = struct.pack(">lbblbb", 0, 0, 0, jump_s, 0, 4)
    (folder / name).write_bytes(b"TZif" + bytes(16) + counts + times + types + b"BEF\0AFT\0")


async def next_by_server(bus: Bus, asked: list[tuple[str, str]]) -> list[datetime]:
    """Each schedule (six fields, zone) fires; when is it due again?"""
    for number, (fields, zone) in enumerate(asked):
        block = {headers.SCHEDULE: fields, headers.SCHEDULE_TARGET: subjects.due(f"f{number}"), headers.TTL: "never"}
        block |= {headers.SCHEDULE_TIME_ZONE: zone} if zone else {}
        await jetstream.publish(bus, subjects.schedule(f"f{number}", "t1"), b"", headers=headers.block(block))
    targets = [subjects.due(f"f{number}") for number in range(len(asked))]
    fired: dict[str, jetstream.Stored] = {}
    async with asyncio.timeout(20):
        while len(fired) < len(targets):
            await asyncio.sleep(0.05)
            fired = await jetstream.newest(bus, storage.SCHEDULES, targets)
    return [datetime.fromisoformat(headers.parse(fired[target].headers)[headers.SCHEDULE_NEXT]) for target in targets]


def foretell(fields: str, zone: str, after: datetime) -> datetime:
    return next(schedules.cron_times(fields, zone, after)).astimezone(UTC)  # times that come twice equal none else


def soon() -> datetime:
    return datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=3)


def fields_at(template: str, moment: datetime) -> str:
    weekday = (moment.weekday() + 1) % 7
    return template.format(s=moment.second, m=moment.minute, h=moment.hour, d=moment.day, mon=moment.month, dow=weekday)


async def test_server_and_foretelling_differ(bus: Bus) -> None:
    """Lists, ranges, steps, names, days of month and week together, in several zones."""
    at = soon()
    asked = [
        (fields_at(template, at.astimezone(zoneinfo.ZoneInfo(zone) if zone else UTC)), zone)
        for zone in ZONES
        for template in DUE_NOW
    ]
    foretold = [foretell(fields, zone, at) for fields, zone in asked]
    answers = await next_by_server(bus, asked)
    wrong = [row for row in zip(asked, answers, foretold, strict=True) if row[1] != row[2]]
    assert wrong == []


async def test_server_and_foretelling_differ_over_daylight_saving(bus: Bus, zones: Path) -> None:
    """An hour that is skipped, one that comes twice, one after the change: both say the same, and what we promise."""
    at = soon()
    hour = timedelta(hours=1)
    two, four, full = at + 2 * hour, at + 4 * hour, at.replace(minute=0, second=0)
    write_zone(zones, "Skips", full + 2 * hour, 3600)
    write_zone(zones, "Repeats", full + hour, -3600)
    write_zone(zones, "Later", full + hour, 3600)
    asked = [
        (f"{at.second} {at.minute} {at.hour},{two.hour} * * *", "Skips"),
        (f"{at.second} {at.minute} {at.hour} * * *", "Repeats"),
        (f"{at.second} {at.minute} {at.hour},{four.hour} * * *", "Later"),
    ]
    expected = [at + 23 * hour, at + hour, at + 3 * hour]
    assert [foretell(fields, zone, at) for fields, zone in asked] == expected
    assert await next_by_server(bus, asked) == expected


@pytest.mark.parametrize("word", schedules.WORDS)
async def test_word_is_refused_by_the_server(bus: Bus, word: str) -> None:
    """Whatever we take, the server takes."""
    fields = {
        headers.SCHEDULE: schedules.for_server(word),
        headers.SCHEDULE_TARGET: subjects.due("f"),
        headers.SCHEDULE_TIME_ZONE: "Europe/Amsterdam",
    }
    await jetstream.publish(bus, subjects.schedule("f", "t1"), b"", headers=headers.block(fields))


@pytest.mark.parametrize("interval", ["@every 1s", "@every 1h30m5s", "@every 90m", "@every 8784h"])
async def test_interval_is_refused_by_the_server(bus: Bus, interval: str) -> None:
    """Go's notation of a duration, as far as we take it."""
    schedules.check(interval)
    fields = {headers.SCHEDULE: interval, headers.SCHEDULE_TARGET: subjects.due("f")}
    await jetstream.publish(bus, subjects.schedule("f", "t1"), b"", headers=headers.block(fields))
