"""System calls that the standard library does not have, through libc.

Each raises ``OSError`` with the errno and the name of the step. They are called once in the zygote, so that the
instances forked from it find them resolved.
"""

import contextlib
import ctypes
import os
import platform
from collections.abc import Iterator

NEWNS = 0x00020000
NEWIPC = 0x08000000
NEWUSER = 0x10000000
NEWPID = 0x20000000

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 32, 4096, 16384, 1 << 18
MNT_DETACH = 2

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_NAME = 15
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38

CAP_SETGID, CAP_SETUID, CAP_SYS_ADMIN = 6, 7, 21

_X86 = platform.machine() == "x86_64"
_PIVOT_ROOT = 155 if _X86 else 41
_CAPSET = 126 if _X86 else 91
_SECCOMP = 317 if _X86 else 277
_MOVE_MOUNT = 429
_MOUNT_SETATTR = 442

_AT_FDCWD = -100
_AT_RECURSIVE = 0x8000
_MOVE_MOUNT_F_EMPTY_PATH = 4
_CAPABILITY_VERSION_3 = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc.mount.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p]
_libc.umount2.argtypes = [ctypes.c_char_p, ctypes.c_int]
_libc.prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]


def _check(result: int, name: str) -> int:
    if result < 0:
        errno = ctypes.get_errno()
        raise OSError(errno, f"{name}: {os.strerror(errno)}")
    return result


@contextlib.contextmanager
def step(name: str) -> Iterator[None]:
    """Names the step in an ``OSError`` of the standard library."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, f"{name}: {error.strerror}") from None


def syscall(name: str, number: int, *args: object) -> int:
    """Integers are passed as long: a bare int would be cut to 32 bits."""
    wide = [ctypes.c_long(arg) if isinstance(arg, int) else arg for arg in args]
    return _check(_libc.syscall(ctypes.c_long(number), *wide), name)


def unshare(flags: int) -> None:
    _check(_libc.unshare(flags), "unshare")


def unshare_user(flags: int) -> None:
    """Into a user namespace where this uid and gid are all there are, with every capability in it."""
    uid, gid = os.geteuid(), os.getegid()
    unshare(NEWUSER | flags)
    with step("map uid"):
        for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)


def mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    raw = [None if text is None else text.encode() for text in (source, target, kind, data)]
    _check(_libc.mount(raw[0], raw[1], raw[2], flags, raw[3]), f"mount {target}")


def move_mount(fd: int, target: str) -> None:
    syscall(f"move_mount {target}", _MOVE_MOUNT, fd, b"", _AT_FDCWD, target.encode(), _MOVE_MOUNT_F_EMPTY_PATH)


def make_read_only(path: str) -> None:
    """The mount at ``path`` and all below it: no writing, no set-uid, no devices but those that are there."""
    attributes = (ctypes.c_uint64 * 4)(MS_RDONLY | MS_NOSUID, 0, 0, 0)
    syscall(f"mount_setattr {path}", _MOUNT_SETATTR, _AT_FDCWD, path.encode(), _AT_RECURSIVE, attributes, 32)


def pivot_root(path: str) -> None:
    """Makes ``path`` the root and lets go of the old one."""
    os.chdir(path)
    syscall("pivot_root", _PIVOT_ROOT, b".", b".")
    _check(_libc.umount2(b".", MNT_DETACH), "umount old root")
    os.chdir("/")


def prctl(name: str, option: int, value: int = 0) -> None:
    _check(_libc.prctl(option, value, 0, 0, 0), name)


def set_name(name: str) -> None:
    """What ``ps`` and ``top`` show."""
    buffer = ctypes.create_string_buffer(name.encode()[:15])
    prctl("set name", PR_SET_NAME, ctypes.addressof(buffer))


def keep_capabilities(*kept: int) -> None:
    """Drops all others, for good where no_new_privs is set."""
    bits = sum(1 << capability for capability in kept)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    syscall("capset", _CAPSET, header, (ctypes.c_uint32 * 6)(bits, bits, 0))


def capabilities() -> int:
    """The effective set, as bits."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1], 16) for line in status if line.startswith("CapEff"))


def can(capability: int) -> bool:
    return bool(capabilities() >> capability & 1)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def load_seccomp(program: bytes) -> None:
    filter_mode = 1
    syscall("seccomp", _SECCOMP, filter_mode, 0, ctypes.byref(_Program(len(program) // 8, program)))
