"""The verbs that change something: deploy, configure, rollback, delete."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import structlog

from mayfly_chassis.bus import Bus
from mayfly_proto import api, storage
from mayfly_proto.records import VersionSpec
from mayfly_registry import capacity, draft, history, http_paths, manifest, package
from mayfly_registry.config import RegistryConfig
from mayfly_registry.errors import Conflict, InvalidRequest, NotFound
from mayfly_registry.publish import Probe, Publication, Step, settle
from mayfly_registry.store import Store
from mayfly_registry.wiring import Wiring

_BUCKET = re.compile(r"[A-Za-z0-9_-]{1,64}")

_log = structlog.get_logger()


class Changes:
    """Each verb raises `Refusal` or `BusError`."""

    def __init__(self, bus: Bus, store: Store, wiring: Wiring, config: RegistryConfig) -> None:
        self._store = store
        self._config = config
        self._allowed = config.allowed()
        self._wiring = wiring
        self._probe = Probe(bus, config.probe_timeout_s)
        self._checking = asyncio.Lock()  # one package at a time is unpacked: memory and CPU have a bound
        self._claims = asyncio.Lock()  # held from looking at others' paths and floors until ours are visible

    async def deploy(self, request: api.DeployRequest) -> api.DeployReply:
        name = draft.check_name(request.name)
        bucket, _, upload = (request.object or "").partition("/")
        if (request.source is None) == (request.object is None):
            raise InvalidRequest("exactly one of source and object must be given")
        if request.object is not None and not (_BUCKET.fullmatch(bucket) and upload):
            raise InvalidRequest(f"object: {request.object[:120]!r} must be BUCKET/NAME")
        try:
            if request.source is not None:
                data = request.source.encode()
            else:
                data = await self._store.read_upload(bucket, upload, package.PACKED_LIMIT)
            spec = await self._draft(name, data, request.filename, request.settings)
            return await self._publish_unless_current(spec, data)
        finally:
            if bucket == storage.INCOMING:
                await self._store.discard_upload(upload)

    async def configure(self, request: api.ConfigureRequest) -> api.DeployReply:
        record = await self._store.record(draft.check_name(request.name))
        current = await self._store.spec(record.name, record.current)
        settings = manifest.of_version(current) | request.settings
        data = await self._store.code.get(current.package.sha256)
        contents = package.reopen(current.package, data)
        async with self._checking:
            spec = await asyncio.to_thread(draft.build, record.name, contents, settings, self._allowed)
        return await self._publish_unless_current(spec, data, based_on=record.current)

    async def rollback(self, request: api.RollbackRequest) -> api.DeployReply:
        name = draft.check_name(request.name)
        record = await self._store.record(name)
        version = history.before(record) if request.version is None else request.version
        history.check(record, version)
        spec = await self._store.spec(name, version)
        manifest.check(manifest.of_version(spec), self._allowed)  # what it may touch can have changed since
        async with self._claiming(spec):
            await self._wiring.prepare(spec, paused=record.paused)
            before = await self._point_to(name, version)
        await settle(self._store, self._wiring, name, leaving={before, version})
        _log.info("function.rolled_back", function=name, version=version)
        await self._probe.answered(name, version)
        return _reply(spec, unchanged=version == record.current)

    async def delete(self, request: api.DeleteRequest) -> api.DeleteReply:
        record = await self._store.record(draft.check_name(request.name))
        await self._store.delete_record(record.name)
        versions = history.everything(record)
        found = [await self._store.find_spec(record.name, version) for version in versions]
        specs = [spec for spec in found if spec is not None]
        await self._wiring.remove(record.name, specs)
        for version in versions:
            await self._store.delete_spec(record.name, version)
        await self._store.remove_unused_code({spec.package.sha256 for spec in specs})
        _log.info("function.deleted", function=record.name, versions=len(versions))
        return api.DeleteReply(name=record.name, versions=len(versions))

    async def _draft(self, name: str, data: bytes, filename: str, settings: dict[str, Any] | None) -> VersionSpec:
        def check() -> VersionSpec:
            contents = package.read(data, filename or draft.default_filename(name, data))
            return draft.build(name, contents, settings, self._allowed)

        async with self._checking:
            return await asyncio.to_thread(check)

    async def _publish_unless_current(
        self, spec: VersionSpec, data: bytes, *, based_on: int | None = None
    ) -> api.DeployReply:
        current = await self._current(spec.name)
        if current is not None and draft.same(spec, current):
            await self._probe.answered(current.name, current.version)
            return _reply(current, unchanged=True)
        publication = Publication(
            self._store,
            self._wiring,
            self._probe,
            spec,
            data,
            keep=self._config.keep_versions,
            patience_s=self._config.grace_s / 2,
        )
        async with AsyncExitStack() as claim:
            await claim.enter_async_context(self._claiming(spec))
            async for step in publication.steps(based_on=based_on):
                _log.debug("deploy.step", function=spec.name, version=publication.spec.version, step=step.value)
                if step is Step.PUBLISHED:
                    await claim.aclose()
        _log.info("function.deployed", function=spec.name, version=publication.spec.version)
        return _reply(publication.spec)

    async def _current(self, name: str) -> VersionSpec | None:
        found = await self._store.find(name)
        return None if found is None else await self._store.find_spec(name, found.record.current)

    @asynccontextmanager
    async def _claiming(self, spec: VersionSpec) -> AsyncIterator[None]:
        """Inside, no other deploy of this process takes what ``spec`` is about to take: paths, or promised memory."""
        if not any(trigger.http for trigger in spec.triggers) and not capacity.floor_mb(spec):
            yield
            return
        async with self._claims:
            others = {other.name: other for other in await self._store.current_specs()}
            before = others.pop(spec.name, None)
            taken = http_paths.conflicts(spec.triggers, {name: other.triggers for name, other in others.items()})
            taken += capacity.conflicts(spec, before, others.values(), self._config.capacity_mb)
            if taken:
                raise Conflict("; ".join(taken))
            yield

    async def _point_to(self, name: str, version: int) -> int:
        """Which version was current before."""
        while True:
            found = await self._store.find(name)
            if found is None:
                raise NotFound(f"there is no function {name}")
            if await self._store.write_record(history.rolled_back(found.record, version), found):
                return found.record.current


def _reply(spec: VersionSpec, *, unchanged: bool = False) -> api.DeployReply:
    return api.DeployReply(
        name=spec.name,
        version=spec.version,
        handler=spec.handler,
        sha256=spec.package.sha256,
        size=spec.package.size,
        created=spec.created,
        unchanged=unchanged,
    )
