"""The zygote: an interpreter with the standard library loaded, waiting to be forked.

It is started with ``python -I -S``, an empty environment and one socket (SEQPACKET, file descriptor 3), runs no user
code ever, and has one thread. As PID 1 of a pid namespace of its own, its death takes every instance along and
whatever they started, so killing the worker leaves nothing behind. Processes that outlive their instance come to it
as orphans, and it ends them.

Messages are msgpack maps. From the worker: the set-up, then one order a fork. To the worker: ``hello``; ``forked``
with a pidfd; ``failed``; ``exited`` with the kernel's word on how.
"""

import contextlib
import gc
import os
import resource
import select
import signal
import socket
import sys
from typing import Any, NoReturn

from mayfly_runtime import instance, linux, root, sandbox, wire

_MAX_MESSAGE = 1 << 18
_MAX_FDS = 16
_PRELOAD = (
    "abc", "argparse", "ast", "asyncio", "base64", "bisect", "calendar", "collections.abc",
    "concurrent.futures.thread", "contextlib", "copy", "csv", "ctypes", "dataclasses", "datetime", "decimal",
    "email.message", "enum", "fractions", "functools", "glob", "gzip", "hashlib", "heapq", "hmac", "html",
    "http.client", "inspect", "io", "itertools", "json", "locale", "logging", "math", "mimetypes", "operator",
    "os", "pathlib", "pickle", "pprint", "queue", "random", "re", "secrets", "shutil", "signal", "socket",
    "sqlite3", "ssl", "statistics", "string", "struct", "subprocess", "tempfile", "textwrap", "threading", "time",
    "traceback", "types", "typing", "unicodedata", "urllib.parse", "urllib.request", "uuid", "warnings",
    "weakref", "xml.etree.ElementTree", "zipfile", "zlib", "zoneinfo",
)  # fmt: skip


def main(fd: int, folders: list[str]) -> NoReturn:
    """``folders`` are those on the path that functions may not see."""
    control = socket.socket(fileno=fd)
    sys.executable = os.path.realpath(sys.executable)  # a venv's is not there in a private root
    setup = wire.decode(control.recv(_MAX_MESSAGE))
    linux.prctl("parent death signal", linux.PR_SET_PDEATHSIG, signal.SIGKILL)
    notes: list[str] = []
    own_pids = _enter_pid_namespace(control, notes)
    private_root = own_pids and _enter_root(setup["root"], notes)
    if not own_pids:
        linux.prctl("subreaper", linux.PR_SET_CHILD_SUBREAPER, 1)
    _preload()
    kernel = sandbox.Kernel(private_root=private_root, ports=setup["ports"])
    _hide(folders)
    hello = {
        "kind": "hello",
        "private_root": private_root,
        "own_pids": own_pids,
        "uids": linux.can(linux.CAP_SETUID) and linux.can(linux.CAP_SETGID) and os.geteuid() == 0,
        "landlock": kernel.landlock,
        "notes": notes,
    }
    gc.collect()
    gc.freeze()
    Zygote(control, kernel).serve(hello)


def _enter_pid_namespace(control: socket.socket, notes: list[str]) -> bool:
    """Continues as PID 1 of a new pid namespace.

    The process that was is left as a guard, which dies with the worker.
    """
    try:
        if os.geteuid():
            _unshare_as_user()
        else:  # not in a user namespace, where there would be no uid but this one
            linux.unshare(linux.NEWPID | linux.NEWNS | linux.NEWIPC)
    except OSError as error:
        notes.append(
            f"no pid namespace ({error.strerror}): processes that detach themselves may outlive a killed worker"
        )
        return False
    child = os.fork()
    if child:
        control.close()
        os.waitpid(child, 0)
        os._exit(0)
    linux.prctl("parent death signal", linux.PR_SET_PDEATHSIG, signal.SIGKILL)
    linux.mount("none", "/", None, linux.MS_REC | linux.MS_PRIVATE)
    return True


def _unshare_as_user() -> None:
    uid, gid = os.geteuid(), os.getegid()
    linux.unshare(linux.NEWUSER | linux.NEWPID | linux.NEWNS | linux.NEWIPC)
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def _enter_root(place: str, notes: list[str]) -> bool:
    if os.geteuid() != 0:
        notes.append("not root: functions share the worker's uid, and Landlock alone keeps files from them")
        with contextlib.suppress(OSError):
            linux.mount("proc", "/proc", "proc", linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC)
        return False
    try:
        root.build(place)
    except OSError as error:
        notes.append(f"no private root ({error.strerror}): Landlock alone keeps files from functions")
        return False
    return True


def _preload() -> None:
    gc.disable()
    for name in _PRELOAD:
        with contextlib.suppress(ImportError):  # an interpreter may be built without sqlite3 or ssl
            __import__(name)
    with contextlib.suppress(ImportError):
        __import__("mayfly_warm_up")  # which is nowhere: the search has each folder listed for good


def _hide(folders: list[str]) -> None:
    """Functions may bring their own msgpack, of another version: ours must be neither on the path nor loaded."""
    sys.path[:] = [path for path in sys.path if path not in folders]
    for name in [name for name in sys.modules if name.partition(".")[0] == "msgpack"]:
        del sys.modules[name]


class Zygote:
    def __init__(self, control: socket.socket, kernel: sandbox.Kernel) -> None:
        self._control = control
        self._kernel = kernel
        self._children: dict[int, int] = {}  # pid → order

    def serve(self, hello: dict[str, Any]) -> NoReturn:
        wake, woken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        self._tell(hello)
        poll = select.poll()
        for fd in (self._control.fileno(), wake):
            poll.register(fd, select.POLLIN)
        while True:
            ready = {fd for fd, _ in poll.poll()}
            if wake in ready:
                os.read(wake, 4096)
                self._reap()
            if self._control.fileno() in ready:
                self._take_order()

    def _take_order(self) -> None:
        data, ancillary, _, _ = self._control.recvmsg(
            _MAX_MESSAGE, socket.CMSG_LEN(4 * _MAX_FDS), socket.MSG_CMSG_CLOEXEC
        )
        if not data:
            os._exit(0)
        fds = [fd for _, _, raw in ancillary for fd in memoryview(raw).cast("i")]
        order = wire.decode(data)["id"]
        try:
            self._fork(order, fds)
        except OSError as error:
            self._tell({"kind": "failed", "id": order, "message": f"fork: {error.strerror}"})
        finally:
            for fd in fds:
                os.close(fd)

    def _fork(self, order: int, fds: list[int]) -> None:
        pid = os.fork()
        if not pid:
            instance.run(self._kernel, fds)
        self._children[pid] = order
        pidfd = os.pidfd_open(pid)
        self._tell({"kind": "forked", "id": order}, pidfd)
        os.close(pidfd)

    def _reap(self) -> None:
        """Reports every child that ended, after ending what it left behind."""
        ended = []
        while True:
            try:
                pid, status, used = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if not pid:
                break
            if pid in self._children:
                ended.append((self._children.pop(pid), status, used))
        self._end_orphans()
        for order, status, used in ended:
            self._tell(_exited(order, status, used))

    def _end_orphans(self) -> None:
        try:
            with open(f"/proc/self/task/{os.getpid()}/children") as children:
                pids = [int(pid) for pid in children.read().split()]
        except OSError:
            return
        for pid in pids:
            if pid not in self._children:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def _tell(self, message: dict[str, Any], fd: int | None = None) -> None:
        ancillary = [] if fd is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fd.to_bytes(4, sys.byteorder))]
        self._control.sendmsg([wire.encode(message)], ancillary)


def _exited(order: int, status: int, used: resource.struct_rusage) -> dict[str, Any]:
    return {
        "kind": "exited",
        "id": order,
        "code": os.waitstatus_to_exitcode(status),
        "cpu_ms": (used.ru_utime + used.ru_stime) * 1000,
        "max_rss_kb": used.ru_maxrss,
    }
