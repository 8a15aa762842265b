"""A folder becomes a ZIP: the same files give the same bytes, and nothing gets in that should not."""

import io
import os
import zipfile
from pathlib import Path

import pytest

from mayfly import archive


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def names(packed: bytes) -> list[str]:
    return zipfile.ZipFile(io.BytesIO(packed)).namelist()


def test_same_files_give_the_same_bytes(tmp_path: Path) -> None:
    """A package is stored by its hash: times and the order of creation must not change it."""
    write(tmp_path / "one", {"main.py": "x = 1\n", "pkg/a.py": "", "pkg/b.py": ""})
    write(tmp_path / "two", {"pkg/b.py": "", "pkg/a.py": "", "main.py": "x = 1\n"})
    os.utime(tmp_path / "two/main.py", (1, 1))
    assert archive.pack(tmp_path / "one") == archive.pack(tmp_path / "two")


def test_caches_and_environments_and_history_are_left_out(tmp_path: Path) -> None:
    """What is not the project's code (and may hold secrets, as .git does) is not uploaded."""
    junk = [".git/config", "__pycache__/main.pyc", "pkg/__pycache__/a.pyc", ".venv/bin/python", ".mayfly/secrets/token"]
    write(tmp_path, {"main.py": "", "pkg/a.py": "", "pkg/stale.pyc": "", **dict.fromkeys(junk, "")})
    assert names(archive.pack(tmp_path)) == ["main.py", "pkg/a.py"]


def test_files_keep_what_they_are(tmp_path: Path) -> None:
    """Content and the executable bit survive; nobody else's permissions come along."""
    write(tmp_path, {"run.sh": "#!/bin/sh\n", "data.txt": "ü"})
    (tmp_path / "run.sh").chmod(0o777)
    with zipfile.ZipFile(io.BytesIO(archive.pack(tmp_path))) as packed:
        assert packed.read("data.txt").decode() == "ü"
        modes = {entry.filename: oct(entry.external_attr >> 16) for entry in packed.infolist()}
    assert modes == {"run.sh": "0o100755", "data.txt": "0o100644"}


def test_links_are_refused_by_name(tmp_path: Path) -> None:
    """A link would upload what lies outside the folder, or be refused later without saying which."""
    write(tmp_path, {"main.py": ""})
    (tmp_path / "passwd").symlink_to("/etc/passwd")
    with pytest.raises(archive.NotPackable, match="passwd"):
        archive.pack(tmp_path)


def test_empty_folder_is_refused(tmp_path: Path) -> None:
    """There is nothing to deploy, which is said here and not by the server."""
    with pytest.raises(archive.NotPackable, match="holds no files"):
        archive.pack(tmp_path)


def test_too_many_files_are_refused_before_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`mayfly deploy ~` must not read a whole disk into memory."""
    monkeypatch.setattr(archive, "MAX_ENTRIES", 2)
    write(tmp_path, {"a.py": "", "b.py": "", "c.py": ""})
    with pytest.raises(archive.NotPackable, match="too large"):
        archive.pack(tmp_path)


def test_progress_counts_every_byte(tmp_path: Path) -> None:
    """A progress bar ends at its total."""
    write(tmp_path, {"a": "12345", "b/c": "123"})
    seen: list[int] = []
    archive.pack(tmp_path, seen.append)
    assert sum(seen) == 8
