"""What was learnt of functions, kept in KV ``learned``: by the leader, every ten minutes for each that has changed.

Lost, it is learnt again; nothing but the windows of the next minutes depends on it.
"""

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from zlib import crc32

import msgspec
import structlog

from mayfly_chassis.bus import Bus
from mayfly_chassis.errors import BusError
from mayfly_chassis.kv import Bucket
from mayfly_proto import records, storage
from mayfly_proto.records import Learned
from mayfly_scaler.functions.function import Function
from mayfly_scaler.functions.learning import Learning

KEEP_EVERY_S = 600.0
AT_ONCE = 50
STOP_S = 3.0  # for what is unsaved at the end

_log = structlog.get_logger()


class Memory:
    def __init__(self, bus: Bus) -> None:
        self._bucket = Bucket(bus, storage.LEARNED)
        self._due: dict[str, float] = {}  # function → when it is to be kept next
        self.known: set[str] = set()  # functions of which something is kept, as far as this process knows

    async def restore(self) -> dict[str, Learning]:
        try:
            entries = await self._bucket.load()
        except BusError as error:
            _log.warning("learned.not_restored", error=str(error))
            return {}
        self.known = set(entries)
        restored: dict[str, Learning] = {}
        for name, entry in entries.items():
            try:
                restored[name] = Learning.restored(records.decode(entry.value, Learned))
            except (msgspec.MsgspecError, ValueError) as error:
                _log.warning("learned.unreadable", function=name, error=str(error))
        return restored

    async def keep(self, functions: Iterable[Function], now: float) -> None:
        """Those whose time has come, some at once; each function's time is another."""
        unsaved = [function for function in functions if function.learning.unsaved and self._is_due(function.name, now)]
        for function in unsaved[:AT_ONCE]:
            self._due[function.name] = now + KEEP_EVERY_S
        await self._save_all(unsaved[:AT_ONCE])

    async def keep_all(self, functions: Iterable[Function]) -> None:
        """Before the end, as far as time allows."""
        unsaved = [function for function in functions if function.learning.unsaved]
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_S):
                for start in range(0, len(unsaved), AT_ONCE):
                    await self._save_all(unsaved[start : start + AT_ONCE])

    async def forget(self, function: str) -> None:
        """Also what another leader has kept."""
        self._due.pop(function, None)
        try:
            await self._bucket.delete(function)
            self.known.discard(function)
        except BusError as error:
            self.known.add(function)
            _log.warning("learned.not_deleted", function=function, error=str(error))

    def _is_due(self, name: str, now: float) -> bool:
        return now >= self._due.setdefault(name, now + crc32(name.encode()) % int(KEEP_EVERY_S))

    async def _save_all(self, functions: list[Function]) -> None:
        await asyncio.gather(*map(self._save, functions))

    async def _save(self, function: Function) -> None:
        function.learning.unsaved = False
        try:
            await self._bucket.put(function.name, records.encode(function.learning.kept()))
            self.known.add(function.name)
        except BusError as error:
            function.learning.unsaved = True
            _log.warning("learned.not_kept", function=function.name, error=str(error))
