"""``platform.json`` in the data directory: where a platform is and how to get in. Written by `mayfly up` only."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

NAME = "platform.json"


class PlatformNotFound(Exception):
    """There is no platform; the message says where it was looked for."""


@dataclass(frozen=True, slots=True)
class Process:
    name: str  # as the service's folder: nats, registry, router, activator, worker, gateway, scaler
    pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    nats: str
    http: str
    user: str  # the operator's, for NATS
    password: str
    token: str  # of the management API
    services: tuple[Process, ...] = ()


def write(data: Path, platform: Platform) -> None:
    """Readers see the old file or the new one, never half of one."""
    fresh = data / f".{NAME}"
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "w") as file:
        json.dump(asdict(platform), file, indent=2)
        file.write("\n")
    fresh.replace(data / NAME)


def read(data: Path) -> Platform:
    """Raises `PlatformNotFound`."""
    path = data / NAME
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise PlatformNotFound(f"no platform in {data}: start one with `mayfly up --data {data}`") from None
    except (OSError, ValueError) as error:
        raise PlatformNotFound(f"{path} cannot be read: {error}") from error
    services = tuple(Process(name=row["name"], pid=row["pid"]) for row in content["services"])
    return Platform(**{**content, "services": services})
