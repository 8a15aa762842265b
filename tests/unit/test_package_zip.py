"""Each way a ZIP can be evil is refused whole, with the entry named; what honest tools make is accepted."""

import io
import stat
import struct
import zipfile
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mayfly_registry import package
from mayfly_registry.errors import InvalidPackage, PackageTooLarge

MAIN = ("main.py", b"def handler(event, context):\n    return event\n")


def archive(*entries: tuple[str | zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", method) as writer:
        for entry, content in entries:
            writer.writestr(entry, content)
    return packed.getvalue()


def of_kind(kind: int) -> bytes:
    entry = zipfile.ZipInfo("odd")
    entry.create_system = 3
    entry.external_attr = (kind | 0o755) << 16
    return archive(MAIN, (entry, b"/etc/passwd"))


def renamed(old: bytes, new: bytes) -> bytes:
    """An entry's name changed behind the writer's back, both times it is written."""
    assert len(old) == len(new)
    return archive(MAIN, (old.decode(), b"x")).replace(old, new)


def directory_field(data: bytes, offset: int, form: str, value: int, entry: int = 0) -> bytes:
    """One field of the directory's ``entry``-th record changed."""
    at = -1
    for _ in range(entry + 1):
        at = data.index(b"PK\x01\x02", at + 1)
    changed = bytearray(data)
    struct.pack_into(form, changed, at + offset, value)
    return bytes(changed)


def quoted_overlap() -> bytes:
    """Two directory records, one piece of data: how a few kilobytes become petabytes."""
    data = archive(MAIN, ("twin.py", MAIN[1]))
    return directory_field(data, 42, "<I", 0, entry=1)


def far_local_header() -> bytes:
    """The local header claims an extra field so long that its data would be its neighbour's."""
    data = bytearray(archive(("a.py", b"x" * 100), ("b.py", b"y" * 100), method=zipfile.ZIP_STORED))
    struct.pack_into("<H", data, 28, 134)
    return bytes(data)


def lies_about_its_size() -> bytes:
    data = archive(("main.py", MAIN[1]), ("zeros", bytes(1 << 20)))
    return directory_field(data, 24, "<I", 10, entry=1)


def many(count: int) -> bytes:
    return archive(*((f"f{number}", b"") for number in range(count)), method=zipfile.ZIP_STORED)


ATTACKS: dict[str, tuple[Callable[[], bytes], str]] = {
    "leads out": (lambda: archive(MAIN, ("../evil.py", b"x")), r"'\.\./evil\.py': leads out of the package"),
    "leads out inside": (lambda: archive(MAIN, ("a/../../evil.py", b"x")), "leads out of the package"),
    "absolute": (lambda: archive(MAIN, ("/etc/cron.d/evil", b"x")), "an absolute path"),
    "drive letter": (lambda: archive(MAIN, ("C:evil.py", b"x")), "an absolute path"),
    "backslash": (lambda: archive(MAIN, ("a\\evil.py", b"x")), "a backslash or a control character"),
    "NUL": (lambda: renamed(b"evil.py.txt", b"evil.py\0txt"), "a backslash or a control character"),
    "newline": (lambda: archive(MAIN, ("a\nb", b"x")), "a backslash or a control character"),
    "empty part": (lambda: archive(MAIN, ("a//b", b"x")), "an empty part"),
    "dot part": (lambda: archive(MAIN, ("./main.py", b"x")), "an empty part"),
    "long part": (lambda: archive(MAIN, ("x" * 256, b"x")), "name too long"),
    "long path": (lambda: archive(MAIN, ("x/" * 600 + "y", b"x")), "name too long"),
    "not UTF-8": (lambda: renamed("ü".encode(), b"\xff\xfe"), "an entry's name is not UTF-8"),
    "other encoding": (lambda: renamed(b"evil.py.txt", b"ev\x81l.py.txt"), "not marked as UTF-8"),
    "symbolic link": (lambda: of_kind(stat.S_IFLNK), "'odd': a symbolic link"),
    "character device": (lambda: of_kind(stat.S_IFCHR), "neither a file nor a folder"),
    "pipe": (lambda: of_kind(stat.S_IFIFO), "neither a file nor a folder"),
    "socket": (lambda: of_kind(stat.S_IFSOCK), "neither a file nor a folder"),
    "folder that is a file": (lambda: of_kind(stat.S_IFDIR), "neither a file nor a folder"),
    "encrypted": (lambda: directory_field(archive(MAIN), 8, "<H", 1), "encrypted"),
    "strange method": (lambda: archive(MAIN, method=zipfile.ZIP_LZMA), "compression method 14"),
    "file and folder": (lambda: archive(MAIN, ("a", b"x"), ("a/b", b"x")), "'a' is a file, not a folder"),
    "file and empty folder": (lambda: archive(MAIN, ("a", b"x"), ("a/", b"")), "'a': comes twice"),
    "overlap": (quoted_overlap, "overlaps another"),
    "overlap by local header": (far_local_header, "overlaps another"),
    "offset outside": (lambda: directory_field(archive(MAIN), 42, "<I", 1 << 31), "overlaps another"),
    "too many entries": (lambda: many(20_001), "more than 20000 entries"),
    "ratio": (lambda: archive(MAIN, ("zeros", bytes(32 << 20))), "blows up"),
    "bomb": (lambda: archive(MAIN, ("zeros", bytes(251 << 20))), r"\d+ bytes unpacked: at most"),
    "promises much": (lambda: directory_field(archive(MAIN), 24, "<I", 1 << 31), "bytes unpacked: at most"),
    "lies about its size": (lies_about_its_size, "not a sound ZIP"),
    "wrong checksum": (lambda: directory_field(archive(MAIN), 16, "<I", 1), "not a sound ZIP"),
    "truncated": (lambda: archive(MAIN)[:-30], "not a sound ZIP"),
    "no files": (lambda: archive(("a/", b"")), "an empty ZIP"),
    "not a ZIP": (lambda: b"PK\x03\x04 and then nothing", "not a sound ZIP"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_evil_zip_is_accepted(attack: str) -> None:
    """Every attack is refused, and the sentence says what it was."""
    make, sentence = ATTACKS[attack]
    with pytest.raises(InvalidPackage, match=sentence):
        package.read(make(), "evil.zip")


def test_entry_that_comes_twice_hides_from_the_check() -> None:
    """Two entries of one name: which one runs must not depend on who unpacks."""
    with pytest.warns(UserWarning, match="Duplicate name"):
        data = archive(MAIN, MAIN)
    with pytest.raises(InvalidPackage, match=r"'main\.py': comes twice"):
        package.read(data, "twice.zip")


def test_upload_above_the_limit_is_read() -> None:
    """More than 50 MB is refused before anything looks into it."""
    with pytest.raises(PackageTooLarge):
        package.read(bytes(package.PACKED_LIMIT + 1), "large.zip")


def test_honest_zip_is_refused() -> None:
    """Folders, data files, UTF-8 names, stored and deflated, a comment, something before it: all fine."""
    link_free = zipfile.ZipInfo("pkg/données.txt")
    link_free.external_attr = (stat.S_IFREG | 0o644) << 16
    packed = io.BytesIO(b"#!/usr/bin/env python3\n")
    packed.seek(0, io.SEEK_END)
    with zipfile.ZipFile(packed, "a") as writer:
        writer.comment = b"made by hand"
        writer.writestr("pkg/", b"")
        writer.writestr("main.py", MAIN[1])
        writer.writestr("Main.py", b"")
        writer.writestr(link_free, b"data", zipfile.ZIP_DEFLATED)
        writer.writestr("zeros", bytes(8 << 20), zipfile.ZIP_DEFLATED)
    contents = package.read(packed.getvalue(), "honest.zip")
    assert contents.package.format == "zip"
    assert contents.files == {
        "main.py": len(MAIN[1]),
        "Main.py": 0,
        "pkg/données.txt": 4,
        "zeros": 8 << 20,
    }
    assert contents.read("main.py") == MAIN[1]


def test_zip_of_the_largest_allowed_count_is_refused() -> None:
    """20,000 entries are allowed."""
    assert len(package.read(many(20_000), "many.zip").files) == 20_000


def test_zip_inside_a_zip_is_unpacked() -> None:
    """Archives inside are data: not looked into, not a reason to refuse."""
    inner = archive(("../evil.py", b"x"))
    assert package.read(archive(MAIN, ("inner.zip", inner), method=zipfile.ZIP_STORED), "nested.zip")


@pytest.mark.parametrize(
    "filename", ["../evil.py", "a/b.py", ".py", "a b.py", "x.py\n", "a.b.py", "é.py", "", "hello.txt"]
)
def test_single_file_is_written_elsewhere(filename: str) -> None:
    """A single file's name becomes a path on every node: only plain names are taken."""
    with pytest.raises(InvalidPackage, match="must be letters, digits"):
        package.read(b"x = 1", filename)


@pytest.mark.parametrize("filename", ["../evil.zip", "a\0.zip", "x" * 252 + ".zip"])
def test_zips_name_is_no_file_name(filename: str) -> None:
    """A ZIP's name is shown and used for downloads."""
    with pytest.raises(InvalidPackage, match="must be a plain file name"):
        package.read(archive(MAIN), filename)


def test_package_that_was_checked_reads_differently_later() -> None:
    """Opened again from the store, a package has the same files."""
    for data, filename in ((archive(MAIN, ("a/b", b"x")), "p.zip"), (MAIN[1], "main.py")):
        checked = package.read(data, filename)
        assert package.reopen(checked.package, data) == checked


HONEST = archive(MAIN, ("pkg/__init__.py", b""), ("pkg/data.bin", bytes(range(256)) * 4))


@given(
    st.lists(st.tuples(st.integers(0, len(HONEST) - 1), st.integers(0, 255)), min_size=1, max_size=6),
    st.integers(0, len(HONEST)),
)
def test_damaged_zip_raises_something_else(changes: list[tuple[int, int]], length: int) -> None:
    """Whatever the bytes, they are a package or an InvalidPackage."""
    data = bytearray(HONEST[:length] if length % 3 == 0 else HONEST)
    for at, value in changes:
        if at < len(data):
            data[at] = value
    try:
        package.read(bytes(data), "damaged.zip")
    except InvalidPackage as refused:
        assert str(refused).isprintable()
