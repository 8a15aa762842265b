"""What one function may do on this node: its uid, the ports it may connect to, its code as a mount."""

import ctypes
import hashlib
import os
from pathlib import Path

from mayfly_proto.records import VersionSpec

# Well-known services that a function talks to; everything else a manifest names in `connect`.
_PORTS = frozenset(
    {22, 25, 53, 80, 110, 143, 389, 443, 465, 587, 636, 993, 995, 1433, 1521, 3306, 5432, 5671, 5672, 6379, 6380, 8443}
    | {9042, 9092, 9200, 11211, 27017, 27018}
)
_FIRST_UID = 200_000
_UIDS = 65_000

_OPEN_TREE, _MOUNT_SETATTR = 428, 442
_FSOPEN, _FSCONFIG, _FSMOUNT = 430, 431, 432
_CLOEXEC, _SET_STRING, _CREATE = 1, 1, 6
_AT_FDCWD = -100
_OPEN_TREE_CLONE, _OPEN_TREE_CLOEXEC = 1, 0o2000000
_AT_EMPTY_PATH = 0x1000
_RDONLY, _NOSUID, _NODEV = 1, 2, 4


def uid_of(function: str) -> int:
    """The same on every start and node, so that what one function leaves is never another's."""
    digest = hashlib.sha256(function.encode()).digest()
    return _FIRST_UID + int.from_bytes(digest[:8], "big") % _UIDS


def ports(platform: frozenset[int]) -> list[int]:
    """TCP ports that every function may connect to: never the platform's own."""
    return sorted(_PORTS - platform)


def environment(spec: VersionSpec, instance: str, tmp: str) -> dict[str, str]:
    """What user code finds in its environment; what its manifest says comes last."""
    return {
        "HOME": tmp,
        "TMPDIR": tmp,
        "USER": "function",
        "MAYFLY_FUNCTION": spec.name,
        "MAYFLY_VERSION": str(spec.version),
        "MAYFLY_INSTANCE": instance,
        **spec.env,
    }


def detached_mount(folder: Path) -> int:
    """A read-only mount of ``folder`` that hangs nowhere yet, as a file descriptor.

    Needs CAP_SYS_ADMIN; raises ``OSError``.
    """
    flags = _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC
    fd = _syscall("open_tree", _OPEN_TREE, _AT_FDCWD, bytes(folder), flags)
    attributes = (ctypes.c_uint64 * 4)(_RDONLY | _NOSUID | _NODEV, 0, 0, 0)
    try:
        _syscall("mount_setattr", _MOUNT_SETATTR, fd, b"", _AT_EMPTY_PATH, attributes, 32)
    except OSError:
        os.close(fd)
        raise
    return fd


def detached_tmpfs(size_mb: int) -> int:
    """An empty tmpfs that hangs nowhere yet. Needs CAP_SYS_ADMIN; raises ``OSError``."""
    context = _syscall("fsopen", _FSOPEN, b"tmpfs", _CLOEXEC)
    try:
        for name, value in ((b"size", b"%dm" % size_mb), (b"mode", b"1777")):
            _syscall("fsconfig", _FSCONFIG, context, _SET_STRING, name, value, 0)
        _syscall("fsconfig", _FSCONFIG, context, _CREATE, None, None, 0)
        return _syscall("fsmount", _FSMOUNT, context, _CLOEXEC, _NOSUID | _NODEV)
    finally:
        os.close(context)


_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def _syscall(name: str, number: int, *args: object) -> int:
    wide = [ctypes.c_long(arg) if isinstance(arg, int) else arg for arg in args]
    result = int(_libc.syscall(ctypes.c_long(number), *wide))
    if result < 0:
        errno = ctypes.get_errno()
        raise OSError(errno, f"{name}: {os.strerror(errno)}")
    return result
