"""Unpacking a package that somebody may have planted in the store."""

import io
import os
import stat
import zipfile
from pathlib import Path

import pytest

from mayfly_proto.records import Package
from mayfly_worker import archive
from mayfly_worker.archive import BadPackage, unpack

ZIP = Package(sha256="0" * 64, size=1, format="zip", filename="hello.zip")


def zipped(*entries: tuple[str | zipfile.ZipInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as made:
        for name, data in entries:
            made.writestr(name, data)
    return buffer.getvalue()


def test_files_arrive_where_they_were_readable_by_the_functions_uid(tmp_path: Path) -> None:
    """Folders and data files come along; the modes are ours, whatever the umask and the archive say."""
    program = zipfile.ZipInfo("bin/tool")
    program.external_attr = (stat.S_IFREG | 0o4777) << 16
    before = os.umask(0o077)
    try:
        size = unpack(ZIP, zipped(("app/main.py", b"x = 1"), ("app/data.txt", b"hi"), (program, b"#!")), tmp_path / "p")
    finally:
        os.umask(before)
    assert size == 9
    assert (tmp_path / "p/app/main.py").read_bytes() == b"x = 1"
    modes = {str(path.relative_to(tmp_path)): stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    assert modes["p"] == modes["p/app"] == modes["p/bin/tool"] == 0o755
    assert modes["p/app/main.py"] == modes["p/app/data.txt"] == 0o644


def test_single_file_keeps_its_name(tmp_path: Path) -> None:
    """`hello.py` is importable as `hello`."""
    package = Package(sha256="0" * 64, size=1, format="py", filename="hello.py")
    assert unpack(package, b"x = 1", tmp_path / "p") == 5
    assert (tmp_path / "p/hello.py").read_bytes() == b"x = 1"


@pytest.mark.parametrize("name", ["../evil.py", "/etc/evil.py", "a/../../evil.py", "..\\evil.py"])
def test_no_path_leaves_the_folder(tmp_path: Path, name: str) -> None:
    """A planted archive writes nothing outside."""
    with pytest.raises(BadPackage):
        unpack(ZIP, zipped((name, b"x")), tmp_path / "p")
    assert [path.name for path in tmp_path.iterdir()] == ["p"]


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO])
def test_nothing_but_files_and_folders_is_made(tmp_path: Path, kind: int) -> None:
    """Links and devices are refused."""
    entry = zipfile.ZipInfo("entry")
    entry.external_attr = (kind | 0o777) << 16
    with pytest.raises(BadPackage, match="neither"):
        unpack(ZIP, zipped((entry, b"/etc/shadow")), tmp_path / "p")


def test_sizes_are_counted_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bomb stops at the bound."""
    monkeypatch.setattr(archive, "MAX_BYTES", 1000)
    with pytest.raises(BadPackage, match="unpacked"):
        unpack(ZIP, zipped(("a", bytes(600)), ("b", bytes(600))), tmp_path / "p")


def test_garbage_is_a_bad_package_not_a_crash(tmp_path: Path) -> None:
    """Whatever is in the store, the worker goes on."""
    with pytest.raises(BadPackage):
        unpack(ZIP, b"not a zip", tmp_path / "p")
    twice = zipped(("a", b"1"), ("b", b"2")).replace(b"b", b"a")
    with pytest.raises(BadPackage):
        unpack(ZIP, twice, tmp_path / "q")
