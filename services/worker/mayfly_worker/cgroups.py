"""Where this process's own control groups are, in whichever layout the kernel has: one hierarchy for all (v2), or one
for each controller (v1), or both side by side.
"""

from pathlib import Path
from typing import NamedTuple


class Place(NamedTuple):
    path: Path
    top: Path  # where its hierarchy is mounted: in a container, that is often the group itself


def own() -> dict[str, Place]:
    """By controller; v2's is under "". Those that are mounted."""
    mounts = [line.split()[1:4] for line in Path("/proc/mounts").read_text().splitlines()]
    places: dict[str, Place] = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        names = controllers.split(",")
        for mount, kind, options in mounts:
            unified = kind == "cgroup2" and controllers == ""
            if unified or (kind == "cgroup" and set(names) & set(options.split(","))):
                places |= dict.fromkeys(names, Place(_below(mount, path), Path(mount)))
                break
    return places


def _below(mount: str, path: str) -> Path:
    """A container may be told a path of its host's."""
    place = Path(mount + path)
    return place if place.is_dir() else Path(mount)
