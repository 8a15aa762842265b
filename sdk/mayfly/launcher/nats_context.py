"""A context for the real ``nats`` command, so that an operator needs no address and no password."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

from mayfly.launcher.directory import in_use
from mayfly.platform_file import Platform
from mayfly_proto import subjects

_OURS = "Mayfly platform in "
_NAME = "mayfly"


def write(data: Path, platform: Platform, environ: Mapping[str, str]) -> str:
    """Write it where ``nats`` looks; return its name."""
    folder = Path(environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "nats" / "context"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    name = _free_name(folder, data)
    content = {
        "description": f"{_OURS}{data}",
        "url": platform.nats,
        "user": platform.user,
        "password": platform.password,
        "inbox_prefix": subjects.inbox(platform.user),
    }
    fresh = folder / f".{name}.{os.getpid()}"
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(content, file, indent=2)
    fresh.replace(folder / f"{name}.json")
    return name


def _free_name(folder: Path, data: Path) -> str:
    """``mayfly``, unless that is another platform's that runs now: then the data directory's name is added."""
    try:
        description = str(json.loads((folder / f"{_NAME}.json").read_bytes())["description"])
    except (OSError, ValueError, KeyError, TypeError):
        return _NAME
    other = Path(description.removeprefix(_OURS))
    taken = other != data and (not description.startswith(_OURS) or in_use(other))
    return re.sub(r"[^a-zA-Z0-9_-]+", "-", f"{_NAME}-{data.name}") if taken else _NAME
