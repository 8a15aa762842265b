"""Collecting what a deploy or a delete left behind when it was cut short.

What no record names is half-made, or was let go. It stays for ``grace_s``, in which a deploy that is on its way (here
or in another registry) publishes it or gives up; then it goes: specs first, then code that no spec refers to, then
pieces of code that were never finished.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta

import structlog

from mayfly_chassis import jetstream
from mayfly_chassis.bus import Bus
from mayfly_proto import storage, subjects
from mayfly_proto.records import FunctionRecord, VersionSpec
from mayfly_registry import history
from mayfly_registry.store import Store

_log = structlog.get_logger()


def unnamed(
    specs: Mapping[str, VersionSpec], functions: Mapping[str, FunctionRecord], older_than: datetime
) -> list[VersionSpec]:
    """The specs that no record names and that were made before ``older_than``."""
    return [
        spec
        for spec in specs.values()
        if spec.version not in (history.everything(functions[spec.name]) if spec.name in functions else ())
        and datetime.fromisoformat(spec.created) < older_than
    ]


class Reconciler:
    def __init__(self, bus: Bus, store: Store, grace_s: float) -> None:
        self._bus = bus
        self._store = store
        self._grace_s = grace_s
        self._unfinished: dict[str, datetime] = {}  # pieces of code → when they were first seen so

    async def once(self, now: datetime) -> None:
        """Raises `BusError`; the next round goes on where this one stopped."""
        older_than = now - timedelta(seconds=self._grace_s)
        await self._specs(older_than)
        await self._code(older_than)
        await self._pieces(now, older_than)

    async def _specs(self, older_than: datetime) -> None:
        specs = await self._store.specs()  # before the records: one published in between is named
        for spec in unnamed(specs, await self._store.records(), older_than):
            await self._store.delete_spec(spec.name, spec.version)
            _log.info("version.removed", function=spec.name, version=spec.version)

    async def _code(self, older_than: datetime) -> None:
        wanted = {spec.package.sha256 for spec in (await self._store.specs()).values()}
        stale = []
        for name in set(await self._store.code.names()) - wanted:
            info = await self._store.code.info(name)
            if info is not None and datetime.fromisoformat(info.mtime) < older_than:
                stale.append(name)
        if stale:
            await self._store.remove_unused_code(stale)

    async def _pieces(self, now: datetime, older_than: datetime) -> None:
        """Chunks whose metadata was never written, or is gone: a put or a delete was cut short."""
        stream = subjects.object_stream(storage.CODE)
        prefix = subjects.object_chunks(storage.CODE, "")
        request = {"subjects_filter": f"{prefix}>"}
        state = (await jetstream.api(self._bus, subjects.stream_info(stream), request))["state"]
        pieces = {subject.removeprefix(prefix) for subject in state.get("subjects") or ()}
        names = await self._store.code.names()
        if len(pieces) > len(names):  # otherwise each belongs to an object, and there is nothing to look up
            pieces -= {info.nuid for name in names if (info := await self._store.code.info(name)) is not None}
        else:
            pieces.clear()
        self._unfinished = {piece: self._unfinished.get(piece, now) for piece in pieces}
        for piece, since in self._unfinished.items():
            if since < older_than:
                request = {"filter": subjects.object_chunks(storage.CODE, piece)}
                await jetstream.api(self._bus, subjects.stream_purge(stream), request)
                _log.info("code.pieces_removed", nuid=piece)
