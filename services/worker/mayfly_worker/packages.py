"""Unpacked packages on this node, by the SHA-256 of what was uploaded.

Two functions with the same code share a folder. Every uid of the node may read below it, but the folder above cannot be
listed, so a package is found only by who knows its digest, that is, by who has its bytes. An entry appears by a rename,
whole or not at all. The least recently used go when there are more bytes than the bound; what is in use stays.
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
        while (cached := self._cached.get(package.sha256)) is None:
            phases = await self._fetch(package)
        cached.users += 1
        self._cached.move_to_end(package.sha256)
        return Code(cached.path, phases)

    def release(self, package: Package) -> None:
        self._cached[package.sha256].users -= 1

    async def _fetch_now(self, package: Package) -> dict[str, float]:
        began = time.perf_counter()
        data = await self._store.get(package.sha256, limit=package.size)
        fetched = time.perf_counter()
        path, size = await asyncio.to_thread(self._unpack, package, data)
        self._cached[package.sha256] = _Cached(path, size)
        await self._shrink(package.sha256)
        unpacked = time.perf_counter()
        return {"fetch": round((fetched - began) * 1000, 3), "unpack": round((unpacked - fetched) * 1000, 3)}

    def _unpack(self, package: Package, data: bytes) -> tuple[Path, int]:
        if hashlib.sha256(data).hexdigest() != package.sha256:
            raise archive.BadPackage(f"the stored package is not {package.sha256}")
        folder = self._incoming / package.sha256
        shutil.rmtree(folder, ignore_errors=True)
        size = archive.unpack(package, data, folder)
        return folder.rename(self._directory / package.sha256), size

    async def _shrink(self, newest: str) -> None:
        total = sum(cached.size for cached in self._cached.values())
        for sha256, cached in list(self._cached.items()):
            if total <= self._limit:
                return
            if cached.users or sha256 == newest:
                continue
            del self._cached[sha256]
            total -= cached.size
            gone = cached.path.rename(self._incoming / f"{sha256}.{time.monotonic_ns()}")
            await asyncio.to_thread(shutil.rmtree, gone, ignore_errors=True)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
