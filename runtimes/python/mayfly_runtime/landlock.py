"""Landlock: what a process may open, connect to, and reach, by the kernel's documented ABI levels.

ABI 1 files; 2 renames across folders; 3 truncation; 4 TCP ports; 5 device ioctls; 6 signals and abstract sockets.
"""

import contextlib
import ctypes
import os
import stat
from collections.abc import Iterable

from mayfly_runtime import linux

_CREATE, _ADD_RULE, _RESTRICT = 444, 445, 446
_VERSION = 1
_PATH_BENEATH, _NET_PORT = 1, 2

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_TRUNCATE, _IOCTL_DEV = 1 << 14, 1 << 15
_ON_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_BIND_TCP, _CONNECT_TCP = 1, 2
_SCOPES = 3  # abstract Unix sockets and signals stay among those who have the same rules


class _Ruleset(ctypes.Structure):
    _fields_ = (("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _PathRule(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("access", ctypes.c_uint64), ("fd", ctypes.c_int32))


class _PortRule(ctypes.Structure):
    _fields_ = (("access", ctypes.c_uint64), ("port", ctypes.c_uint64))


def abi() -> int:
    """0 when the kernel has none."""
    with contextlib.suppress(OSError):
        return linux.syscall("landlock", _CREATE, None, 0, _VERSION)
    return 0


def _file_rights(level: int) -> int:
    rights = (1 << 13) - 1
    rights |= 1 << 13 if level >= 2 else 0
    rights |= _TRUNCATE if level >= 3 else 0
    return rights | (_IOCTL_DEV if level >= 5 else 0)


class Rules:
    """A ruleset under construction; what it does not allow is denied once `enforce` was called.

    ``files`` says whether it is about files at all. On an ABI that lacks ports or scopes those stay open.
    """

    def __init__(self, level: int, *, files: bool) -> None:
        self._files = _file_rights(level) if files else 0
        attributes = _Ruleset(self._files, _BIND_TCP | _CONNECT_TCP if level >= 4 else 0, _SCOPES if level >= 6 else 0)
        size = 8 if level < 4 else 16 if level < 6 else 24
        self.fd = linux.syscall("landlock ruleset", _CREATE, ctypes.byref(attributes), size, 0)
        self._ports = level >= 4

    def allow_reading(self, paths: Iterable[str]) -> None:
        for path in paths:
            self._allow(path, _READ)

    def allow_writing(self, paths: Iterable[str]) -> None:
        for path in paths:
            self._allow(path, self._files)

    def allow_ports(self, ports: Iterable[int]) -> None:
        """Connecting to these, and listening on a port that the kernel picks."""
        if not self._ports:
            return
        self._add(_NET_PORT, _PortRule(_BIND_TCP, 0))
        for port in ports:
            self._add(_NET_PORT, _PortRule(_CONNECT_TCP, port))

    def enforce(self) -> None:
        linux.syscall("landlock restrict", _RESTRICT, self.fd, 0)

    def _allow(self, path: str, access: int) -> None:
        try:
            fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        try:
            if not stat.S_ISDIR(os.fstat(fd).st_mode):
                access &= _ON_FILES
            self._add(_PATH_BENEATH, _PathRule(access & self._files, fd))
        finally:
            os.close(fd)

    def _add(self, kind: int, rule: ctypes.Structure) -> None:
        linux.syscall("landlock rule", _ADD_RULE, self.fd, kind, ctypes.byref(rule), 0)
