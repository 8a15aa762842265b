"""KV ``targets`` as far as functions are concerned: what stands there, and how the leader changes it.

Written by compare-and-set against what this process knows, so that a leader that was paused and comes back with old
wishes fails instead of overwriting newer ones. Nothing there expires: when all scalers are gone, wishes stay.
"""

from collections.abc import Callable

import msgspec
import structlog

from mayfly_chassis.bus import Bus
from mayfly_chassis.errors import BusError, KeyExists, WrongRevision
from mayfly_chassis.kv import Bucket
from mayfly_chassis.mirror import Mirror
from mayfly_proto import records, storage
from mayfly_proto.records import FunctionTarget

NOTHING = FunctionTarget()
NOTICEABLE_S, NOTICEABLE = 1.0, 0.15  # at least so long, and such a part of a window

_log = structlog.get_logger()


class Targets:
    """``may_write()`` is asked before each write. ``changed``: functions for which something else stands there than
    before; whoever looks takes them out."""

    def __init__(self, bus: Bus, may_write: Callable[[], bool]) -> None:
        self.changed: set[str] = set()
        self._may_write = may_write
        self._bucket = Bucket(bus, storage.TARGETS)
        self._mirror = Mirror(bus, storage.TARGETS, self._changed, below=storage.FUNCTION_TARGETS)
        self._standing: dict[str, FunctionTarget] = {}  # function → what stands there
        self._revisions: dict[str, int] = {}  # of its key

    async def start(self) -> None:
        await self._mirror.start()

    async def stop(self) -> None:
        await self._mirror.stop()

    def __getitem__(self, function: str) -> FunctionTarget:
        return self._standing.get(function, NOTHING)

    def functions(self) -> list[str]:
        """Those that something stands there for."""
        return list(self._standing)

    async def write(self, function: str, target: FunctionTarget) -> bool:
        """False when it could not be written, or not by this scaler; the next look at the function tries again."""
        if not self._may_write():
            return False
        try:
            revision = await self._put(function, records.encode(target))
        except BusError as error:
            _log.warning("target.not_written", function=function, error=str(error))
            return False
        if revision > self._revisions.get(function, 0):
            self._standing[function], self._revisions[function] = target, revision
        return True

    async def forget(self, function: str) -> None:
        revision = self._revisions.get(function)
        if revision and self._may_write():
            try:
                await self._bucket.delete(storage.function_target_key(function), revision=revision)
            except BusError as error:
                _log.warning("target.not_deleted", function=function, error=str(error))

    async def _put(self, function: str, value: bytes) -> int:
        key, before = storage.function_target_key(function), self._revisions.get(function, 0)
        try:
            if before:
                return await self._bucket.update(key, value, before)
            return await self._bucket.create(key, value)
        except (WrongRevision, KeyExists):
            await self._read(function)
            raise

    async def _read(self, function: str) -> None:
        """What the feed has not told."""
        entry = await self._bucket.get(storage.function_target_key(function))
        if entry is None:
            self._drop(function)
        else:
            self._standing[function] = _readable(function, entry.value)
            self._revisions[function] = entry.revision

    def _changed(self, function: str, value: bytes | None) -> None:
        self.changed.add(function)
        revision = self._mirror.revision(function)
        if value is None:
            self._drop(function)
        elif revision >= self._revisions.get(function, 0):
            self._standing[function], self._revisions[function] = _readable(function, value), revision

    def _drop(self, function: str) -> None:
        self._standing.pop(function, None)
        self._revisions.pop(function, None)


def _readable(function: str, value: bytes) -> FunctionTarget:
    """What nobody can read wants nothing, and the next look at the function writes over it."""
    try:
        return records.decode(value, FunctionTarget)
    except (msgspec.MsgspecError, ValueError) as error:
        _log.warning("target.malformed", function=function, error=str(error))
        return NOTHING


def differs(standing: FunctionTarget, wanted: FunctionTarget) -> bool:
    """Whether it is worth a write. Reasons alone are not."""
    if standing.minimum != wanted.minimum:
        return True
    before, after = windows_of(standing), windows_of(wanted)
    return before != after and any(map(_noticeable, before, after))


def windows_of(target: FunctionTarget) -> tuple[float | None, ...]:
    return (target.keep_alive_s, target.further_keep_alive_s, target.pre_warm_at_s, target.pre_warm_for_s)


def _noticeable(before: float | None, after: float | None) -> bool:
    if before is None or after is None:
        return before is not after
    return abs(after - before) > max(NOTICEABLE_S, NOTICEABLE * max(before, after))
