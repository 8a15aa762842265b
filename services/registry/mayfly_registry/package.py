"""Reading a package without trusting it: one .py file, or a ZIP that every node can unpack without harm.

A ZIP is refused whole when any entry would write outside its folder, hide from the check, or take more room than it
says. Nothing is written and nothing is executed here; every byte is unpacked once, in pieces, to see that it is what
the directory of the ZIP promises. Names that differ only in case are allowed: nodes are Linux, and unpack refuses to
write a file twice.
"""

import io
import re
import stat
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256

from mayfly_proto.records import Package
from mayfly_registry.errors import InvalidPackage, PackageTooLarge

ZIP, PY = "zip", "py"

PACKED_LIMIT = 50 << 20  # bytes
UNPACKED_LIMIT = 250 << 20
ENTRIES_LIMIT = 20_000
RATIO_LIMIT = 200  # unpacked to packed, of the whole, once it is large enough to matter
RATIO_FLOOR = 16 << 20
SOURCE_LIMIT = 1 << 20  # of a module that is parsed
PATH_LIMIT, PART_LIMIT = 1024, 255  # bytes, as Linux has them

_MAGIC = (b"PK\x03\x04", b"PK\x05\x06")
_DIRECTORY_ENTRY = b"PK\x01\x02"
_PIECE = 1 << 20
_ENCRYPTED = 0x1 | 0x40 | 0x2000
_UTF8 = 0x800

_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f\\]")
_DRIVE = re.compile(r"[A-Za-z]:")
_PY_FILENAME = re.compile(r"[A-Za-z0-9_-]{1,100}\.py")
_ZIP_FILENAME = re.compile(r"[^/\\\x00-\x1f\x7f]{1,255}")


@dataclass(frozen=True)
class Contents:
    """A package that was found good."""

    package: Package
    data: bytes
    files: dict[str, int]  # path → bytes unpacked

    def read(self, path: str, limit: int = SOURCE_LIMIT) -> bytes:
        """One file. Raises `InvalidPackage` when it is above ``limit``."""
        if self.files[path] > limit:
            raise InvalidPackage(f"{path} is {self.files[path]} bytes: at most {limit} can be read here")
        if self.package.format == PY:
            return self.data
        with zipfile.ZipFile(io.BytesIO(self.data)) as archive:
            return archive.read(path)


def read(data: bytes, filename: str) -> Contents:
    """Check a package. ``filename`` as the user has it. Raises `InvalidPackage`."""
    if len(data) > PACKED_LIMIT:
        raise PackageTooLarge(f"package of {len(data)} bytes: at most {PACKED_LIMIT}")
    single = filename.endswith(".py") or (not filename.endswith(".zip") and not is_zip(data))
    files = _check_source(data, filename) if single else _check_zip(data, filename)
    package = Package(sha256=sha256(data).hexdigest(), size=len(data), format=PY if single else ZIP, filename=filename)
    return Contents(package, data, files)


def is_zip(data: bytes) -> bool:
    """Whether it starts as a ZIP does."""
    return data.startswith(_MAGIC)


def reopen(package: Package, data: bytes) -> Contents:
    """One that was found good when it was deployed."""
    return Contents(package, data, {package.filename: len(data)} if package.format == PY else list_files(data))


def list_files(data: bytes) -> dict[str, int]:
    """Path → bytes unpacked of a ZIP that was found good when it was deployed."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {entry.filename: entry.file_size for entry in archive.infolist() if not entry.is_dir()}


def _check_source(data: bytes, filename: str) -> dict[str, int]:
    if not _PY_FILENAME.fullmatch(filename):
        raise InvalidPackage(f"filename {filename[:120]!r}: must be letters, digits, _ and -, then .py (or be a .zip)")
    if len(data) > SOURCE_LIMIT:
        raise InvalidPackage(f"{filename} is {len(data)} bytes: at most {SOURCE_LIMIT} in one .py")
    return {filename: len(data)}


def _check_zip(data: bytes, filename: str) -> dict[str, int]:
    if not _ZIP_FILENAME.fullmatch(filename):
        raise InvalidPackage(f"filename {filename[:120]!r}: must be a plain file name")
    # Counted before they are parsed: a million entries would cost a gigabyte to look at.
    if data.count(_DIRECTORY_ENTRY) > ENTRIES_LIMIT:
        raise InvalidPackage(f"more than {ENTRIES_LIMIT} entries (those of ZIPs inside it count too)")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            for entry in entries:
                _check_entry(entry)
            _check_tree(entries)
            _check_extent(entries, data, archive.start_dir)
            for entry in entries:
                _check_bytes(archive, entry)
    except InvalidPackage:
        raise
    except UnicodeDecodeError:
        raise InvalidPackage("an entry's name is not UTF-8") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OSError, ValueError, OverflowError) as error:
        raise InvalidPackage(f"not a sound ZIP: {_plain(error)}") from None
    return {entry.filename: entry.file_size for entry in entries if not entry.is_dir()}


def _check_entry(entry: zipfile.ZipInfo) -> None:
    name = entry.orig_filename
    problem = _name_problem(name) or _kind_problem(entry)
    if not problem and not entry.flag_bits & _UTF8 and not name.isascii():
        problem = "its name is not marked as UTF-8"
    if problem:
        raise InvalidPackage(f"entry {name[:120]!r}: {problem}")


def _name_problem(name: str) -> str:
    parts = name.removesuffix("/").split("/")
    if name.startswith("/") or _DRIVE.match(name):
        return "an absolute path"
    if _FORBIDDEN.search(name):
        return "a backslash or a control character in its name"
    if ".." in parts:
        return "leads out of the package"
    if "" in parts or "." in parts:
        return "an empty part in its path"
    if len(name.encode()) > PATH_LIMIT or any(len(part.encode()) > PART_LIMIT for part in parts):
        return f"name too long: at most {PART_LIMIT} bytes a part, {PATH_LIMIT} in all"
    return ""


def _kind_problem(entry: zipfile.ZipInfo) -> str:
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind == stat.S_IFLNK:
        return "a symbolic link"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR) or (kind == stat.S_IFDIR) > entry.is_dir():
        return "neither a file nor a folder"
    if entry.flag_bits & _ENCRYPTED:
        return "encrypted"
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return f"compression method {entry.compress_type}: only stored and deflate are read"
    if entry.is_dir() and entry.file_size:
        return "a folder with content"
    return ""


def _check_tree(entries: list[zipfile.ZipInfo]) -> None:
    seen: set[str] = set()
    for entry in entries:
        path = entry.filename.removesuffix("/")
        if path in seen:
            raise InvalidPackage(f"entry {path[:120]!r}: comes twice")
        seen.add(path)
    files = {entry.filename for entry in entries if not entry.is_dir()}
    if not files:
        raise InvalidPackage("an empty ZIP")
    for path in sorted(seen):
        for folder in _folders(path):
            if folder in files:
                raise InvalidPackage(f"entry {path[:120]!r}: {folder[:120]!r} is a file, not a folder")


def _folders(path: str) -> Iterable[str]:
    end = path.find("/")
    while end > 0:
        yield path[:end]
        end = path.find("/", end + 1)


def _check_extent(entries: list[zipfile.ZipInfo], data: bytes, end: int) -> None:
    """Entries lie one after another, none shares bytes with another, and all together stay below the limits."""
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > UNPACKED_LIMIT:
        raise InvalidPackage(f"{unpacked} bytes unpacked: at most {UNPACKED_LIMIT}")
    if unpacked > RATIO_FLOOR and unpacked > len(data) * RATIO_LIMIT:
        raise InvalidPackage(f"blows up {unpacked // len(data)} times when unpacked: at most {RATIO_LIMIT}")
    for entry in sorted(entries, key=lambda entry: entry.header_offset, reverse=True):
        start = entry.header_offset
        if start < 0 or start + _local_header(data, start) + entry.compress_size > end:
            raise InvalidPackage(f"entry {entry.filename[:120]!r}: overlaps another")
        end = start


def _local_header(data: bytes, start: int) -> int:
    """Its length: with the name and the extra field as it gives them itself, which the directory may contradict."""
    name_end, extra_end = start + 28, start + 30
    name, extra = data[start + 26 : name_end], data[name_end:extra_end]
    return 30 + int.from_bytes(name, "little") + int.from_bytes(extra, "little")


def _check_bytes(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> None:
    """Unpack it: `zipfile` stops at the promised size and then compares the checksum."""
    size = 0
    with archive.open(entry) as stream:
        while piece := stream.read(_PIECE):
            size += len(piece)
    if size != entry.file_size:
        raise InvalidPackage(f"entry {entry.filename[:120]!r}: {size} bytes, where {entry.file_size} were promised")


def _plain(error: Exception) -> str:
    return re.sub(r"[\x00-\x1f\x7f]", "?", str(error))[:200] or type(error).__name__
