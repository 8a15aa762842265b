"""Unpacked packages on this node, by the SHA-256 of what was uploaded.

Two functions with the same code share a folder; a single .py is the same code only under the same file name. Every uid
of the node may read below it, but the folder above cannot be listed, so a package is found only by who knows its
digest, that is, by who has its bytes. An entry appears by a rename, whole or not at all. The least recently used go
when there are more bytes than the bound; what is in use stays.
"""

import asyncio
import hashlib
import shutil
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import msgspec

from mayfly_chassis.objects import ObjectStore
from mayfly_proto.records import Package
from mayfly_worker import archive
from mayfly_worker.sharing import Shared


class _Cached(msgspec.Struct):
    path: Path
    size: int
    users: int = 0


@dataclass(frozen=True, slots=True)
class Code:
    path: Path
    phases_ms: dict[str, float]  # fetch and unpack; nothing when it was here


class Packages:
    def __init__(self, store: ObjectStore, directory: Path, limit_mb: int) -> None:
        self._store = store
        self._directory = directory / "code"
        self._incoming = directory / "incoming"
        self._limit = limit_mb * 2**20
        self._cached: OrderedDict[str, _Cached] = OrderedDict()  # least recently used first
        self._fetch = Shared(self._fetch_now)

    def start(self) -> None:
        """Take over what an earlier worker has left, but for what it had not finished."""
        shutil.rmtree(self._incoming, ignore_errors=True)
        for folder, mode in ((self._directory, 0o711), (self._incoming, 0o700)):
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(mode)
        for path in sorted(self._directory.iterdir(), key=lambda path: path.stat().st_mtime):
            self._cached[path.name] = _Cached(path, _size(path))

    async def acquire(self, package: Package) -> Code:
        """The package's folder, to be given back by `release`. Raises `BusError` and `archive.BadPackage`."""
        phases: dict[str, float] = {}
        while (cached := self._cached.get(_key(package))) is None:
            phases = await self._fetch(package)
        cached.users += 1
        self._cached.move_to_end(_key(package))
        return Code(cached.path, phases)

    def release(self, package: Package) -> None:
        self._cached[_key(package)].users -= 1

    async def _fetch_now(self, package: Package) -> dict[str, float]:
        began = time.perf_counter()
        data = await self._store.get(package.sha256, limit=package.size)
        fetched = time.perf_counter()
        path, size = await asyncio.to_thread(self._unpack, package, data)
        self._cached[_key(package)] = _Cached(path, size)
        await self._shrink(_key(package))
        unpacked = time.perf_counter()
        return {"fetch": round((fetched - began) * 1000, 3), "unpack": round((unpacked - fetched) * 1000, 3)}

    def _unpack(self, package: Package, data: bytes) -> tuple[Path, int]:
        if hashlib.sha256(data).hexdigest() != package.sha256:
            raise archive.BadPackage(f"the stored package is not {package.sha256}")
        folder = self._incoming / _key(package)
        shutil.rmtree(folder, ignore_errors=True)
        size = archive.unpack(package, data, folder)
        return folder.rename(self._directory / _key(package)), size

    async def _shrink(self, newest: str) -> None:
        total = sum(cached.size for cached in self._cached.values())
        for key, cached in list(self._cached.items()):
            if total <= self._limit:
                return
            if cached.users or key == newest:
                continue
            del self._cached[key]
            total -= cached.size
            gone = cached.path.rename(self._incoming / f"{key}.{time.monotonic_ns()}")
            await asyncio.to_thread(shutil.rmtree, gone, ignore_errors=True)


def _key(package: Package) -> str:
    if package.format == "zip":
        return package.sha256
    return f"{package.sha256}.{hashlib.sha256(package.filename.encode()).hexdigest()[:16]}"


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
