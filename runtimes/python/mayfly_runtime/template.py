"""A process that has imported one version's code and is forked for its next instances: a heavy import is paid once.

It runs user code, so it is confined as an instance is, with one difference: each instance is to have a /tmp of its
own, and so a template keeps CAP_SYS_ADMIN, in a user namespace of its own and with no other system call to use it in
than `unshare` of mounts and `move_mount`. Its instances give that up too before they serve.

Not everything survives a fork. What would break is looked for after the import, and if there is any, there is no
template. What cannot be seen is the author's to know: random generators and sessions made at import are copies in
each instance, unless `os.register_at_fork` renews them. The `random` module, `uuid`, `secrets`, `ssl` and numpy's
global generator are renewed.
"""

import contextlib
import gc
import os
import sys
from dataclasses import dataclass

from mayfly_runtime.forks import children

_KEEP_NO_STATE = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")


class Unsuitable(Exception):
    """The import left something that a fork would break."""


@dataclass(frozen=True, slots=True)
class Possessions:
    """What a fork would share or lose."""

    fds: dict[int, str]
    shared_maps: int

    @classmethod
    def look(cls) -> "Possessions":
        fds = {}
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):  # the listing's own
                fds[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        with open("/proc/self/maps") as maps:
            shared = sum(line.split()[1].endswith("s") for line in maps)
        return cls(fds, shared)


def settle(before: Possessions) -> None:
    """Makes this process ready to be forked. Raises `Unsuitable`."""
    reasons = list(_hazards(before, Possessions.look()))
    if reasons:
        raise Unsuitable("; ".join(reasons))
    gc.collect()
    gc.freeze()


def renew() -> None:
    """In a new instance: what siblings must not have in common, and the interpreter does not renew by itself."""
    gc.enable()
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        with contextlib.suppress(Exception):
            numpy.random.seed()


def _hazards(before: Possessions, now: Possessions) -> list[str]:
    reasons = []
    threads = len(os.listdir("/proc/self/task"))
    if threads > 1:
        reasons.append(f"{threads} threads")
    if started := len(children()):
        reasons.append(f"{started} child processes")
    if now.shared_maps > before.shared_maps:
        reasons.append("shared memory")
    for fd, target in now.fds.items():
        if before.fds.get(fd) != target and (reason := _hazard(fd, target)):
            reasons.append(reason)
    return reasons


def _hazard(fd: int, target: str) -> str:
    if target.startswith(("socket:", "pipe:", "anon_inode:", "/memfd:")):
        return f"open {target.partition(':')[0].strip('/')}"
    if target.startswith("/dev/"):
        return "" if target in _KEEP_NO_STATE else f"open device {target}"
    writable = os.O_WRONLY | os.O_RDWR
    return f"open file {target}" if _flags(fd) & writable else ""


def _flags(fd: int) -> int:
    try:
        with open(f"/proc/self/fdinfo/{fd}") as info:
            return next(int(line.split()[1], 8) for line in info if line.startswith("flags"))
    except OSError:
        return 0
