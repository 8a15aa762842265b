"""The verbs that only look: list, versions, describe, code."""

import asyncio
from typing import Any

import msgspec

from mayfly_proto import api, storage
from mayfly_proto.records import FunctionRecord, VersionSpec
from mayfly_registry import draft, history, package, triggers
from mayfly_registry.store import Store

ENTRIES_SHOWN = 1000
CONTENT_LIMIT = 1 << 20  # bytes that come along with `code`


class Queries:
    """Each verb raises `Refusal` or `BusError`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def functions(self) -> list[api.FunctionSummary]:
        return [_summary(spec) for spec in await self._store.current_specs()]

    async def versions(self, request: api.FunctionRequest) -> list[api.VersionSummary]:
        record = await self._store.record(draft.check_name(request.name))
        numbers = history.everything(record)[::-1]
        specs = await asyncio.gather(*(self._store.find_spec(record.name, number) for number in numbers))
        return [
            _version(spec, current=spec.version == record.current, callable_=spec.version in record.versions)
            for spec in specs
            if spec is not None
        ]

    async def describe(self, request: api.FunctionRequest) -> api.FunctionDescription:
        record, spec = await self._published(request)
        data = await self._store.code.get(spec.package.sha256)
        code: dict[str, Any]
        if spec.package.format == package.PY:
            code = {"source": data.decode("utf-8", "replace"), "files": 1}
        else:
            files = await asyncio.to_thread(package.list_files, data)
            entries = [api.CodeEntry(path=path, size=size) for path, size in sorted(files.items())]
            code = {"entries": entries[:ENTRIES_SHOWN], "files": len(files)}
        fields = {field: getattr(spec, field) for field in spec.__struct_fields__}
        return api.FunctionDescription(**fields, current=record.current, versions=record.versions, **code)

    async def code(self, request: api.FunctionRequest) -> api.CodeReply:
        _, spec = await self._published(request)
        small = spec.package.size <= CONTENT_LIMIT
        return api.CodeReply(
            **msgspec.structs.asdict(spec.package),
            name=spec.name,
            version=spec.version,
            bucket=storage.CODE,
            object=spec.package.sha256,
            content=await self._store.code.get(spec.package.sha256) if small else None,
        )

    async def _published(self, request: api.FunctionRequest) -> tuple[FunctionRecord, VersionSpec]:
        record = await self._store.record(draft.check_name(request.name))
        version = record.current if request.version is None else request.version
        history.check(record, version)
        return record, await self._store.spec(record.name, version)


def _summary(spec: VersionSpec) -> api.FunctionSummary:
    return api.FunctionSummary(
        name=spec.name,
        version=spec.version,
        runtime=spec.runtime,
        handler=spec.handler,
        memory_mb=spec.memory_mb,
        timeout_s=spec.timeout_s,
        concurrency=spec.concurrency,
        min_instances=spec.min_instances,
        max_instances=spec.max_instances,
        keep_alive_s=spec.keep_alive_s,
        triggers=", ".join(map(triggers.describe, spec.triggers)),
        size=spec.package.size,
        created=spec.created,
        description=spec.description,
    )


def _version(spec: VersionSpec, *, current: bool, callable_: bool) -> api.VersionSummary:
    return api.VersionSummary(
        name=spec.name,
        version=spec.version,
        current=current,
        callable=callable_,
        runtime=spec.runtime,
        handler=spec.handler,
        memory_mb=spec.memory_mb,
        timeout_s=spec.timeout_s,
        sha256=spec.package.sha256,
        size=spec.package.size,
        filename=spec.package.filename,
        created=spec.created,
    )
