"""Making a version public, in steps each of which is safe to stop after.

    STORED     the package lies in `code`, by its sha256
    NUMBERED   the version has a number that none ever had
    WRITTEN    its spec lies in `versions`, its triggers have their numbers, and nobody knows of it
    WIRED      its consumers and schedules are there; those of the current version are as they were
    PUBLISHED  the function's record names it, by compare-and-set: from now on it is visible
    SETTLED    what only other versions needed is gone, schedules say what this version says
    ROUTABLE   the owning router has answered for it

Stopped before PUBLISHED (by kill -9, too) nothing is visible, and `reconcile` collects what lies around; after it, the
version is whole. A deploy that was so slow that its parts may have been collected refuses to publish them.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime
from enum import Enum

import msgspec

from mayfly_chassis.bus import Bus
from mayfly_chassis.errors import NoResponders, RequestTimeout
from mayfly_proto import headers, results, subjects
from mayfly_proto.records import VersionSpec
from mayfly_registry import history, numbers
from mayfly_registry.errors import Conflict, NotRoutable
from mayfly_registry.store import Store
from mayfly_registry.wiring import Wiring

_PROBE = headers.block({headers.PROBE: "1"})
_PROBE_PAUSE_S = (0.005, 0.2)  # first, and at most: it doubles


class Step(Enum):
    STORED = "stored"
    NUMBERED = "numbered"
    WRITTEN = "written"
    WIRED = "wired"
    PUBLISHED = "published"
    SETTLED = "settled"
    ROUTABLE = "routable"


class Publication:
    """One new version on its way. ``spec`` has its number once that is known."""

    def __init__(
        self,
        store: Store,
        wiring: Wiring,
        probe: "Probe",
        spec: VersionSpec,
        data: bytes,
        *,
        keep: int,
        patience_s: float,
    ) -> None:
        self.spec = spec
        self._store = store
        self._wiring = wiring
        self._probe = probe
        self._data = data
        self._keep = keep
        self._patience_s = patience_s

    async def steps(self, *, based_on: int | None = None) -> AsyncIterator[Step]:
        """Yields each step when it is done. ``based_on``: publish only if that version is current until then.

        Raises `InvalidManifest` for a stream that does not exist, `Conflict`, `NotRoutable`, `BusError`.
        """
        with self._store.using(self.spec.package.sha256):
            await self._put_code()
            yield Step.STORED
            started = time.monotonic()
            while True:
                await self._number()
                yield Step.NUMBERED
                if await self._write():
                    break
            await self._put_code()  # somebody may have removed it while no spec referred to it
            yield Step.WRITTEN
            found = await self._store.find(self.spec.name)
            await self._wiring.prepare(self.spec, paused=found is not None and found.record.paused)
            yield Step.WIRED
            before = await self._publish(based_on, started)
        yield Step.PUBLISHED
        await settle(self._store, self._wiring, self.spec.name, leaving={before, self.spec.version})
        yield Step.SETTLED
        await self._probe.answered(self.spec.name, self.spec.version)
        yield Step.ROUTABLE

    async def _number(self) -> None:
        """Choose numbers for the version and for its new triggers."""
        others = await self._store.specs_of(self.spec.name)
        triggers = numbers.numbered(self.spec.triggers, others)
        version = await self._store.next_number(self.spec.name)
        self.spec = msgspec.structs.replace(self.spec, version=version, created=now(), triggers=triggers)

    async def _write(self) -> bool:
        """Whether it could: False when another deploy has taken a number of ours meanwhile."""
        if not await self._store.create_spec(self.spec):
            return False
        if numbers.clash(self.spec, await self._store.specs_of(self.spec.name)):
            await self._store.delete_spec(self.spec.name, self.spec.version)
            return False
        return True

    async def _put_code(self) -> None:
        package = self.spec.package
        there = await self._store.code.info(package.sha256)
        if there is None or there.size != package.size:
            await self._store.code.put(package.sha256, self._data)

    async def _publish(self, based_on: int | None, started: float) -> int | None:
        """Which version was current before."""
        name, number = self.spec.name, self.spec.version
        while True:
            found = await self._store.find(name)
            if based_on is not None and (found is None or found.record.current != based_on):
                raise Conflict(f"function {name} has changed meanwhile: version {based_on} is no longer current")
            record = history.published(found.record if found else None, name, number, self._keep)
            if time.monotonic() - started > self._patience_s:
                raise Conflict(f"version {number} of {name} took too long to publish: deploy again")
            if await self._store.write_record(record, found):
                return found.record.current if found else None


async def settle(store: Store, wiring: Wiring, name: str, *, leaving: Iterable[int | None]) -> None:
    """Once the record has changed: what versions in ``leaving`` had and the current one has not goes."""
    found = await store.find(name)
    spec = await store.find_spec(name, found.record.current) if found else None
    if found is None or spec is None:  # deleted meanwhile
        return
    others = [await store.find_spec(name, v) for v in leaving if v is not None and v != spec.version]
    await wiring.finish(spec, [other for other in others if other is not None], paused=found.record.paused)


class Probe:
    """Asks the owning router for a version, until it answers: then a call made right now finds it."""

    def __init__(self, bus: Bus, timeout_s: float) -> None:
        self._bus = bus
        self._timeout_s = timeout_s

    async def answered(self, name: str, version: int) -> None:
        """Raises `NotRoutable`."""
        pause, longest = _PROBE_PAUSE_S
        try:
            async with asyncio.timeout(self._timeout_s):
                while not await self._ask(name, version):
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, longest)
        except TimeoutError:
            raise NotRoutable(
                f"version {version} of {name} is published, but no router has answered for it"
                f" within {self._timeout_s:g} s: it can be called once one does"
            ) from None

    async def _ask(self, name: str, version: int) -> bool:
        try:
            reply = await self._bus.request(subjects.call(name, version), headers=_PROBE, timeout_s=1.0)
        except (NoResponders, RequestTimeout):
            return False
        return headers.find(reply.headers or b"", headers.VERSION.encode()) == b"%d" % version


def now() -> str:
    return results.rfc3339(datetime.now(UTC))
