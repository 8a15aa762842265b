"""The functions there are, and what their current versions ask for: KV ``functions`` and ``versions``, mirrored."""

import asyncio
from collections.abc import Iterator

from mayfly_chassis.bus import Bus
from mayfly_chassis.mirror import Mirror
from mayfly_proto import records, storage
from mayfly_proto.records import FunctionRecord, VersionSpec


class Catalog:
    """``changed``: functions that have come, gone, or got another version; whoever looks takes them out."""

    def __init__(self, bus: Bus) -> None:
        self.changed: set[str] = set()
        self.versions: dict[str, int] = {}  # function → its current one
        self._specs: dict[tuple[str, int], VersionSpec] = {}  # those that were asked for
        self._functions = Mirror(bus, storage.FUNCTIONS, self._function)
        self._mirror = Mirror(bus, storage.VERSIONS, self._version)

    async def start(self) -> None:
        await asyncio.gather(self._functions.start(), self._mirror.start())

    async def stop(self) -> None:
        await self._functions.stop()
        await self._mirror.stop()

    def __iter__(self) -> Iterator[str]:
        return iter(self.versions)

    def __contains__(self, function: str) -> bool:
        return function in self.versions

    def __len__(self) -> int:
        return len(self.versions)

    def current(self, function: str) -> VersionSpec | None:
        """None for a function that does not exist, or whose version has not come in yet."""
        number = self.versions.get(function)
        return None if number is None else self.spec(function, number)

    def spec(self, function: str, version: int) -> VersionSpec | None:
        spec = self._specs.get((function, version))
        if spec is None and (raw := self._mirror.get(storage.version_key(function, version))) is not None:
            spec = self._specs[function, version] = records.decode(raw, VersionSpec)
        return spec

    def _function(self, name: str, value: bytes | None) -> None:
        self.changed.add(name)
        if value is None:
            self.versions.pop(name, None)
        else:
            self.versions[name] = records.decode(value, FunctionRecord).current

    def _version(self, key: str, value: bytes | None) -> None:
        function, _, number = key.rpartition(".")
        if value is None:
            self._specs.pop((function, int(number)), None)
        elif self.versions.get(function) == int(number):  # the two buckets come in any order
            self.changed.add(function)
