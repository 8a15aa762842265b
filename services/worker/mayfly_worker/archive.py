"""Unpacks a package into a folder of its own.

The registry has checked the archive before it stored it; whoever can write to the store could still plant another, so
nothing here trusts its entries: no path leaves the folder, nothing but files and folders is made, and sizes are counted
as they are unpacked, not as they are declared.
"""

import io
import stat
import zipfile
from pathlib import Path, PurePosixPath
from typing import IO

from mayfly_proto.records import Package

MAX_BYTES = 250 * 1024 * 1024
MAX_ENTRIES = 20_000

_CHUNK = 1 << 20
_FOLDER_MODE = 0o755
_FILE_MODE = 0o644
_PROGRAM_MODE = 0o755


class BadPackage(Exception):
    """The package cannot be unpacked; the message says why."""


def unpack(package: Package, data: bytes, folder: Path) -> int:
    """Write the package's files into ``folder``, which must not exist. Returns their size. Raises `BadPackage`."""
    folder.mkdir()
    folder.chmod(_FOLDER_MODE)
    if package.format == "py":
        _write(folder / _inside(package.filename).name, io.BytesIO(data), _FILE_MODE, MAX_BYTES)
        return len(data)
    if package.format != "zip":
        raise BadPackage(f"packages of format {package.format!r} are not known here")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return _unpack_zip(archive, folder)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError, ValueError) as error:
        raise BadPackage(f"the ZIP cannot be unpacked: {error}") from error


def _unpack_zip(archive: zipfile.ZipFile, folder: Path) -> int:
    entries = archive.infolist()
    if len(entries) > MAX_ENTRIES:
        raise BadPackage(f"{len(entries)} entries, more than {MAX_ENTRIES}")
    size = 0
    for entry in entries:
        path = folder / _inside(entry.filename)
        mode = entry.external_attr >> 16
        if entry.is_dir():
            _make_folder(path, folder)
        elif stat.S_IFMT(mode) not in (0, stat.S_IFREG):
            raise BadPackage(f"{entry.filename}: neither file nor folder")
        else:
            _make_folder(path.parent, folder)
            with archive.open(entry) as source:
                wanted = _PROGRAM_MODE if mode & stat.S_IXUSR else _FILE_MODE
                size += _write(path, source, wanted, MAX_BYTES - size)
    return size


def _inside(name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or not path.parts:
        raise BadPackage(f"{name!r} is no path inside the package")
    return path


def _make_folder(path: Path, top: Path) -> None:
    """With modes of our choice, whatever the umask is."""
    if path != top and not path.is_dir():
        _make_folder(path.parent, top)
        path.mkdir()
        path.chmod(_FOLDER_MODE)


def _write(path: Path, source: IO[bytes], mode: int, limit: int) -> int:
    size = 0
    with path.open("xb") as target:
        while chunk := source.read(_CHUNK):
            size += len(chunk)
            if size > limit:
                raise BadPackage(f"more than {MAX_BYTES} bytes unpacked")
            target.write(chunk)
    path.chmod(mode)
    return size
