"""What `deploy` is given, as what the registry takes: for each function its package and its settings.

A folder is packed here; what a manifest says is checked by the registry. With settings of the caller's own, the
manifest's table is read here, so that theirs take precedence one by one.
"""

import tomllib
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from mayfly.archive import NotPackable, pack
from mayfly_proto import names

MANIFEST = "mayfly.toml"

_SETTINGS_TABLES = {
    "env",
    "retries",
    "batch",
    "node_labels",
}  # settings that are tables themselves: no part of a function's name

_ZIP_MAGIC = b"PK"


@dataclass(frozen=True, slots=True)
class Source:
    """One function to deploy."""

    name: str
    filename: str
    content: bytes
    settings: dict[str, Any] | None  # None: the manifest's


def from_path(
    path: Path,
    name: str | None = None,
    settings: Mapping[str, Any] | None = None,
    progress: Callable[[int], None] = lambda size: None,
) -> list[Source]:
    """A .py file, a .zip or a folder. Raises `NotPackable` and `OSError`."""
    if not path.exists():
        raise NotPackable(f"there is no {path}")
    if path.is_dir():
        filename, content = f"{path.resolve().name}.zip", pack(path, progress)
    elif path.suffix in (".py", ".zip"):
        filename, content = path.name, path.read_bytes()
    else:
        raise NotPackable(f"{path}: a function is a .py file, a .zip or a folder")
    return _sources(filename, content, name, settings, default=path.resolve().name if path.is_dir() else path.stem)


def from_bytes(content: bytes, name: str, settings: Mapping[str, Any] | None = None) -> list[Source]:
    """The bytes of a .py or .zip file. Raises `NotPackable`."""
    filename = f"{name}.zip" if content.startswith(_ZIP_MAGIC) else f"{name.replace('-', '_').replace('.', '_')}.py"
    return _sources(filename, content, name, settings, default=name)


def _sources(
    filename: str, content: bytes, name: str | None, settings: Mapping[str, Any] | None, *, default: str
) -> list[Source]:
    tables = dict(_tables(_manifest(content))) if content.startswith(_ZIP_MAGIC) else {}
    wanted = [name] if name else list(tables) or [_name_of(default)]
    return [
        Source(each, filename, content, {**tables.get(each, {}), **settings} if settings else None) for each in wanted
    ]


def _manifest(content: bytes) -> dict[str, Any]:
    """A broken ZIP or manifest is left to the registry, which says what is wrong with it."""
    try:
        with zipfile.ZipFile(BytesIO(content)) as archive, archive.open(MANIFEST) as file:
            found = tomllib.loads(file.read(2**20).decode()).get("functions")
    except (KeyError, ValueError, zipfile.BadZipFile, RuntimeError, NotImplementedError, OSError):
        return {}
    return found if isinstance(found, dict) else {}


def _tables(tables: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Each function's table: ``[functions.billing.charge]`` is the same as ``[functions."billing.charge"]``."""
    for key, table in tables.items():
        if not isinstance(table, dict):
            continue
        if (
            table
            and table.keys().isdisjoint(_SETTINGS_TABLES)
            and all(isinstance(value, dict) for value in table.values())
        ):
            yield from _tables(table, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", table


def _name_of(stem: str) -> str:
    try:
        return names.check_function(stem.lower().replace("_", "-"))
    except names.InvalidName:
        raise NotPackable(f"{stem!r} gives no name: choose one with --name ({names.FUNCTION_RULE})") from None
