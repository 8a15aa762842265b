"""The functions there are, and what their current versions ask for: KV ``functions`` and ``versions``, mirrored."""

import asyncio
from collections.abc import Callable, Iterator

from mayfly_chassis.bus import Bus
from mayfly_chassis.mirror import Mirror
from mayfly_proto import records, storage
from mayfly_proto.records import FunctionRecord, VersionSpec


class Catalog:
    """``on_gone`` hears of functions that were deleted."""

    def __init__(self, bus: Bus) -> None:
        self.on_gone: list[Callable[[str], None]] = []
        self._current: dict[str, int] = {}
        self._specs: dict[tuple[str, int], VersionSpec] = {}  # those that were asked for
        self._functions = Mirror(bus, storage.FUNCTIONS, self._function)
        self._versions = Mirror(bus, storage.VERSIONS, self._version)

    async def start(self) -> None:
        await asyncio.gather(self._functions.start(), self._versions.start())

    async def stop(self) -> None:
        await self._functions.stop()
        await self._versions.stop()

    def __iter__(self) -> Iterator[str]:
        return iter(self._current)

    def __contains__(self, function: str) -> bool:
        return function in self._current

    def __len__(self) -> int:
        return len(self._current)

    def current(self, function: str) -> VersionSpec | None:
        """None for a function that does not exist, or whose version has not come in yet."""
        number = self._current.get(function)
        return None if number is None else self.spec(function, number)

    def spec(self, function: str, version: int) -> VersionSpec | None:
        spec = self._specs.get((function, version))
        if spec is None and (raw := self._versions.get(storage.version_key(function, version))) is not None:
            spec = self._specs[function, version] = records.decode(raw, VersionSpec)
        return spec

    def _function(self, name: str, value: bytes | None) -> None:
        if value is not None:
            self._current[name] = records.decode(value, FunctionRecord).current
        elif self._current.pop(name, None) is not None:
            for callback in self.on_gone:
                callback(name)

    def _version(self, key: str, value: bytes | None) -> None:
        if value is None:
            function, _, number = key.rpartition(".")
            self._specs.pop((function, int(number)), None)
