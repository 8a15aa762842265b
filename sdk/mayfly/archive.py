"""A project folder as a ZIP. The same files give the same bytes, so that the same package is stored once."""

import os
import zipfile
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

IGNORED = frozenset({".git", ".hg", ".mayfly", ".venv", "venv", "node_modules", "__pycache__"})
MAX_ENTRIES = 20_000
MAX_UNPACKED = 250 * 2**20

_EPOCH = (1980, 1, 1, 0, 0, 0)
_UNIX = 3


class NotPackable(Exception):
    """The folder holds what a package must not; the message names the file."""


def pack(folder: Path, progress: Callable[[int], None] = lambda size: None) -> bytes:
    """``progress`` is called with the size of each file packed. Raises `NotPackable` and `OSError`."""
    buffer = BytesIO()
    total = 0
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for count, path in enumerate(files(folder), start=1):
            total += path.stat().st_size
            if count > MAX_ENTRIES or total > MAX_UNPACKED:
                raise NotPackable(
                    f"{folder} is too large: a package has at most {MAX_ENTRIES} files and {MAX_UNPACKED >> 20} MB"
                )
            archive.writestr(_entry(path, folder), path.read_bytes())
            progress(path.stat().st_size)
    if not archive.namelist():
        raise NotPackable(f"{folder} holds no files")
    return buffer.getvalue()


def files(folder: Path) -> Iterator[Path]:
    """Every file of the project, sorted, without version control, environments, caches and platform data."""
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in IGNORED)
        for name in [*folders, *sorted(names)]:
            path = Path(root, name)
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                raise NotPackable(f"{path}: only files and folders can be packed, not links or devices")
        yield from (Path(root, name) for name in sorted(names) if not name.endswith(".pyc"))


def _entry(path: Path, folder: Path) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(path.relative_to(folder).as_posix(), _EPOCH)
    executable = path.stat().st_mode & 0o100
    entry.external_attr = (0o100755 if executable else 0o100644) << 16
    entry.create_system = _UNIX
    entry.compress_type = zipfile.ZIP_DEFLATED
    return entry
