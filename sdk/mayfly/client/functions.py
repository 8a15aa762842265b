"""Functions: deploy, look at, change, pause and remove them."""

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec

from mayfly.client.connection import Connection
from mayfly.project import Source, from_bytes, from_path
from mayfly_chassis import jetstream
from mayfly_chassis.objects import ObjectStore
from mayfly_proto import api, names, storage, subjects
from mayfly_proto.records import LogLine


class Functions(Connection):
    async def deploy(
        self, code: str | os.PathLike[str] | bytes, name: str | None = None, **settings: Any
    ) -> list[api.DeployReply]:
        """Deploy a .py file, a ZIP or a folder; with a ``mayfly.toml``, every function that it describes.

        ``code`` may also be the bytes of a file, which needs a ``name``. ``settings`` (memory, timeout, env ...) take
        precedence over the manifest's. Raises `CallError`, `NotPackable` and `OSError`.
        """
        if isinstance(code, bytes):
            sources = from_bytes(code, name or "", settings)
        else:
            sources = from_path(Path(code), name, settings)
        return [await self._deploy(source) for source in sources]

    async def _deploy(self, source: Source) -> api.DeployReply:
        self._check_operator()
        key = uuid4().hex
        await ObjectStore(self._bus, storage.INCOMING).put(key, source.content)
        request = api.DeployRequest(
            name=source.name,
            object=f"{storage.INCOMING}/{key}",
            filename=source.filename,
            settings=source.settings,
        )
        return await self._ask(api.DEPLOY, request, api.DeployReply)

    async def deploy_object(self, name: str, bucket: str, key: str, **settings: Any) -> api.DeployReply:
        """Deploy a ZIP or a .py that lies in an object store of NATS."""
        request = api.DeployRequest(name=name, object=f"{bucket}/{key}", filename=key, settings=settings or None)
        return await self._ask(api.DEPLOY, request, api.DeployReply)

    async def configure(self, name: str, **settings: Any) -> api.DeployReply:
        """Change settings without the code: a new version on the same package. None means the default."""
        return await self._ask(api.CONFIGURE, api.ConfigureRequest(name=name, settings=settings), api.DeployReply)

    async def describe(self, name: str, version: int | None = None) -> api.FunctionDescription:
        request = api.FunctionRequest(name=name, version=version)
        return await self._ask(api.DESCRIBE, request, api.FunctionDescription)

    async def versions(self, name: str) -> list[api.VersionSummary]:
        return await self._ask(api.VERSIONS, api.FunctionRequest(name=name), list[api.VersionSummary])

    async def rollback(self, name: str, version: int | None = None) -> api.DeployReply:
        """Make another version current; by default the one before."""
        return await self._ask(api.ROLLBACK, api.RollbackRequest(name=name, version=version), api.DeployReply)

    async def delete(self, name: str) -> api.DeleteReply:
        return await self._ask(api.DELETE, api.DeleteRequest(name=name), api.DeleteReply)

    async def logs(self, name: str, *, follow: bool = False) -> AsyncIterator[LogLine]:
        """What its instances wrote, oldest first; with ``follow``, then what they write from now on, for ever."""
        names.check_function(name)
        subject = subjects.logs_of(name)
        fresh: asyncio.Queue[bytes] = asyncio.Queue()
        subscription = await self._bus.subscribe(subject, lambda _s, _r, _h, payload: fresh.put_nowait(payload))
        try:
            await self._bus.flush()
            kept: list[bytes] = []
            await jetstream.every(self._bus, storage.LOGS, subject, lambda message: kept.append(message.payload))
            for line in kept:
                yield msgspec.json.decode(line, type=LogLine)
            both = Counter(kept)  # what came while the stream was read is in it, too
            while follow:
                line = await fresh.get()
                if both[line] > 0:
                    both[line] -= 1
                else:
                    yield msgspec.json.decode(line, type=LogLine)
        finally:
            await subscription.unsubscribe()

    async def pause(self, name: str) -> api.PauseReply:
        """Let events and durable calls wait; those that are waited for go on."""
        return await self._ask(api.PAUSE, api.PauseRequest(name=name), api.PauseReply)

    async def resume(self, name: str) -> api.PauseReply:
        """Run what has waited."""
        return await self._ask(api.RESUME, api.PauseRequest(name=name), api.PauseReply)

    async def schedules(self, function: str | None = None, *, count: int = 3) -> list[api.Schedule]:
        """All, or one function's, each with its next times."""
        wanted = api.SchedulesRequest(function=function, count=count)
        return await self._ask(api.LIST, wanted, list[api.Schedule], resource=api.SCHEDULE)

    async def list(self) -> list[api.FunctionSummary]:
        return await self._ask(api.LIST, None, list[api.FunctionSummary])
