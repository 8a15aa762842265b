"""What the registry keeps in NATS, by its meaning: records, specs, numbers, code.

Readers outside never see more than the record names, so the order of writing is all the safety there is: code, then
spec, then record; and the other way round to remove.
"""

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

import msgspec
import structlog

from mayfly_chassis.bus import Bus
from mayfly_chassis.errors import KeyExists, NoResponders, ObjectCorrupt, ObjectNotFound, ObjectTooLarge, WrongRevision
from mayfly_chassis.kv import Bucket, Entry
from mayfly_chassis.objects import ObjectStore
from mayfly_proto import records, storage
from mayfly_proto.records import FunctionRecord, VersionSpec
from mayfly_registry.errors import InvalidRequest, NotFound, PackageTooLarge

T = TypeVar("T")

_log = structlog.get_logger()


class Found(NamedTuple):
    record: FunctionRecord
    revision: int


class Store:
    """Every method raises `BusError` when NATS does not answer."""

    def __init__(self, bus: Bus) -> None:
        self.code = ObjectStore(bus, storage.CODE)
        self._bus = bus
        self._functions = Bucket(bus, storage.FUNCTIONS)
        self._versions = Bucket(bus, storage.VERSIONS)
        self._numbers = Bucket(bus, storage.NUMBERS)
        self._in_use: Counter[str] = Counter()

    # records

    async def find(self, name: str) -> Found | None:
        entry = await self._functions.get(name)
        return None if entry is None else Found(records.decode(entry.value, FunctionRecord), entry.revision)

    async def record(self, name: str) -> FunctionRecord:
        """Raises `NotFound`."""
        found = await self.find(name)
        if found is None:
            raise NotFound(f"there is no function {name}")
        return found.record

    async def records(self) -> dict[str, FunctionRecord]:
        return (await self.snapshot())[0]

    async def snapshot(self) -> tuple[dict[str, FunctionRecord], set[str]]:
        """All records, and the names of those that somebody has broken by hand."""
        entries = await self._functions.load()
        records = dict(_readable(entries, FunctionRecord))
        return records, entries.keys() - records.keys()

    async def exists(self, name: str) -> bool:
        return await self._functions.get(name) is not None

    async def write_record(self, record: FunctionRecord, found: Found | None) -> bool:
        """Replace what was found by ``record``; False when somebody else has been faster."""
        try:
            if found is None:
                await self._functions.create(record.name, records.encode(record))
            else:
                await self._functions.update(record.name, records.encode(record), found.revision)
        except (KeyExists, WrongRevision):
            return False
        return True

    async def delete_record(self, name: str) -> None:
        await self._functions.delete(name)

    # versions

    async def next_number(self, name: str) -> int:
        """A version number that nobody was given before, even for a function of that name that is long gone."""
        while True:
            entry = await self._numbers.get(name)
            number = int(entry.value) + 1 if entry is not None else 1
            try:
                if entry is None:
                    await self._numbers.create(name, b"1")
                else:
                    await self._numbers.update(name, b"%d" % number, entry.revision)
            except (KeyExists, WrongRevision):
                continue
            return number

    async def create_spec(self, spec: VersionSpec) -> bool:
        """False when there is a version of that number."""
        try:
            await self._versions.create(storage.version_key(spec.name, spec.version), records.encode(spec))
        except KeyExists:
            return False
        return True

    async def find_spec(self, name: str, version: int) -> VersionSpec | None:
        """None also when somebody has broken it by hand."""
        key = storage.version_key(name, version)
        entry = await self._versions.get(key)
        return None if entry is None else dict(_readable({key: entry}, VersionSpec)).get(key)

    async def spec(self, name: str, version: int) -> VersionSpec:
        """Raises `NotFound`."""
        spec = await self.find_spec(name, version)
        if spec is None:
            raise NotFound(f"function {name} has no version {version}")
        return spec

    async def current_specs(self) -> list[VersionSpec]:
        """Of every function the version that is current, by name."""
        current = sorted((await self.records()).items())
        specs = await asyncio.gather(*(self.find_spec(name, record.current) for name, record in current))
        return [spec for spec in specs if spec is not None]

    async def specs(self) -> dict[str, VersionSpec]:
        """All, by key."""
        return dict(_readable(await self._versions.load(), VersionSpec))

    async def specs_of(self, name: str) -> list[VersionSpec]:
        """All of one function, published or not."""
        entries = await self._versions.load(f"{name}.")
        return [spec for _, spec in _readable(entries, VersionSpec) if spec.name == name]

    async def delete_spec(self, name: str, version: int) -> None:
        await self._versions.delete(storage.version_key(name, version))

    # code

    @contextmanager
    def using(self, sha256: str) -> Iterator[None]:
        """Inside, this process does not remove that object, whoever refers to it."""
        self._in_use[sha256] += 1
        try:
            yield
        finally:
            self._in_use[sha256] -= 1

    async def remove_unused_code(self, candidates: Iterable[str]) -> None:
        """Remove those objects that no version refers to."""
        wanted = {spec.package.sha256 for spec in (await self.specs()).values()}
        for sha256 in set(candidates) - wanted:
            if self._in_use[sha256]:
                continue
            try:
                await self.code.delete(sha256)
            except ObjectNotFound:
                continue
            _log.info("code.removed", sha256=sha256)

    async def read_upload(self, bucket: str, name: str, limit: int) -> bytes:
        """An object of any bucket. Raises `InvalidRequest`, `PackageTooLarge`."""
        try:
            return await ObjectStore(self._bus, bucket).get(name, limit=limit)
        except NoResponders:
            raise InvalidRequest(f"object: there is no bucket {bucket}") from None
        except (ObjectNotFound, ObjectCorrupt) as error:
            raise InvalidRequest(f"object: {error}") from None
        except ObjectTooLarge as error:
            raise PackageTooLarge(f"object: {error}") from None

    async def discard_upload(self, name: str) -> None:
        try:
            await ObjectStore(self._bus, storage.INCOMING).delete(name)
        except ObjectNotFound:
            return


def _readable(entries: dict[str, Entry], kind: type[T]) -> Iterator[tuple[str, T]]:
    for key, entry in entries.items():
        try:
            yield key, records.decode(entry.value, kind)
        except msgspec.MsgspecError as error:
            _log.warning("record.unreadable", key=key, error=str(error))
