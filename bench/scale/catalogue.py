"""Functions published as the registry does it, without their code: version, consumers, then the record."""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any

from mayfly_chassis import jetstream
from mayfly_chassis.bus import Bus
from mayfly_chassis.kv import Bucket
from mayfly_proto import records, storage, subjects
from mayfly_registry import wanted

AT_ONCE = 64


def names(count: int) -> list[str]:
    return [f"shop.f{number}" for number in range(count)]


async def publish(bus: Bus, functions: Iterable[str], *, versions: int = 1, consumers: bool = True) -> None:
    """The last version is current, and all of them can be called. ``consumers``: and have events."""
    await together(_publish(bus, name, versions, consumers and versions == 1) for name in functions)


async def together(errands: Iterable[Coroutine[Any, Any, None]]) -> None:
    """All of them, so many at a time."""
    waiting = iter(errands)

    async def work() -> None:
        for errand in waiting:
            await errand

    await asyncio.gather(*(work() for _ in range(AT_ONCE)))


def spec(name: str, version: int) -> records.VersionSpec:
    return records.VersionSpec(
        name=name,
        version=version,
        runtime="python",
        handler="handler:handler",
        package=records.Package(sha256="0" * 64, size=1000, format="py", filename="handler.py"),
        created="2026-01-01T00:00:00Z",
        timeout_s=30,
        env={"GREETING": "Hello", "STAGE": "production"},
        triggers=[records.Trigger(http=f"/{name}", methods=["GET", "POST"])],
    )


async def _publish(bus: Bus, name: str, versions: int, consumers: bool) -> None:
    for version in range(1, versions + 1):
        await Bucket(bus, storage.VERSIONS).put(storage.version_key(name, version), records.encode(spec(name, version)))
    if consumers:
        for consumer in wanted.consumers(spec(name, 1)):
            request = {"stream_name": consumer.stream, "config": consumer.config(paused=False), "action": "create"}
            await jetstream.api(bus, subjects.consumer_create(*consumer.key), request, timeout_s=60)
    record = records.FunctionRecord(name=name, current=versions, versions=list(range(1, versions + 1)))
    await Bucket(bus, storage.FUNCTIONS).put(name, records.encode(record))
