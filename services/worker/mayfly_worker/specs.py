"""What the node knows of versions: their records never change, so one that was read is kept."""

import msgspec

from mayfly_chassis.kv import Bucket
from mayfly_proto import records, storage
from mayfly_proto.records import VersionSpec
from mayfly_worker.sharing import Shared

KEPT = 2_000


class NoSuchVersion(Exception):
    """There is no record of that version, or none that this worker can read."""


class Specs:
    def __init__(self, versions: Bucket) -> None:
        self._versions = versions
        self._known: dict[str, VersionSpec] = {}
        self._read = Shared(self._read_now)

    async def get(self, function: str, version: int) -> VersionSpec:
        """Raises `NoSuchVersion` and `BusError`."""
        key = storage.version_key(function, version)
        return self._known.get(key) or await self._read(key)

    async def _read_now(self, key: str) -> VersionSpec:
        entry = await self._versions.get(key)
        if entry is None:
            raise NoSuchVersion(f"there is no version {key}")
        try:
            spec = records.decode(entry.value, VersionSpec)
        except msgspec.MsgspecError as error:
            raise NoSuchVersion(f"version {key} cannot be read: {error}") from error
        if len(self._known) >= KEPT:
            del self._known[next(iter(self._known))]
        self._known[key] = spec
        return spec
