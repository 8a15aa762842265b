"""The zygote: an interpreter with the standard library loaded, waiting to be forked.

It is started with ``python -I -S``, an empty environment and one socket (SEQPACKET, file descriptor 3), runs no user
code ever, and has one thread. As PID 1 of a pid namespace of its own, its death takes every instance along and
whatever they started, so killing the worker leaves nothing behind. Processes that outlive their instance come to it
as orphans, and it ends them. Should it not notice the worker's death, its guard ends it.

Its first message from the worker is its set-up, its first to the worker what this kernel gives; then it forks on order.
"""

import contextlib
import functools
import gc
import os
import signal
import socket
import sys
from typing import NoReturn

from mayfly_runtime import forks, instance, linux, root, sandbox, wire

_MAX_MESSAGE = 1 << 18
_PATIENCE_S = 1.0  # of the guard with a zygote whose worker is dead
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
        "private_root": private_root,
        "own_pids": own_pids,
        "uids": linux.can(linux.CAP_SETUID) and linux.can(linux.CAP_SETGID) and os.geteuid() == 0,
        "landlock": kernel.landlock,
        "notes": notes,
    }
    gc.collect()
    gc.freeze()
    server = forks.ForkServer(control, functools.partial(instance.run, kernel), own_orphans=True)
    server.tell(hello)
    server.serve()


def _enter_pid_namespace(control: socket.socket, notes: list[str]) -> bool:
    """Continues as PID 1 of a new pid namespace.

    The process that was is left as a guard: it sees the worker die, and takes along what is not gone soon after.
    """
    try:
        if os.geteuid():
            linux.unshare_user(linux.NEWPID | linux.NEWNS | linux.NEWIPC)
        else:  # not in a user namespace, where there would be no uid but this one
            linux.unshare(linux.NEWPID | linux.NEWNS | linux.NEWIPC)
    except OSError as error:
        notes.append(
            f"no pid namespace ({error.strerror}): processes that detach themselves may outlive a killed worker"
        )
        return False
    child = os.fork()
    if child:
        _guard(child, control)
    linux.prctl("parent death signal", linux.PR_SET_PDEATHSIG, signal.SIGKILL)
    linux.mount("none", "/", None, linux.MS_REC | linux.MS_PRIVATE)
    return True


def _guard(child: int, control: socket.socket) -> NoReturn:
    control.close()
    signal.signal(signal.SIGUSR1, lambda *_: signal.setitimer(signal.ITIMER_REAL, _PATIENCE_S))  # SIGALRM ends it
    linux.prctl("parent death signal", linux.PR_SET_PDEATHSIG, signal.SIGUSR1)
    os.waitpid(child, 0)
    os._exit(0)


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
