"""A process that forks on order: the zygote, and each template.

Over its control socket (SEQPACKET) the worker sends ``{"id"}`` with the file descriptors for the child; back go
``forked`` with a pidfd, ``failed``, and in the end ``exited`` with the kernel's word on how.

When the worker dies, what it started ends with it. To take a hundred processes apart keeps every core of a small
machine busy for a tenth of a second, in which those who have to answer for the lost calls would wait. So the zygote
stops them at once, which costs next to nothing, and ends them a moment later.
"""

import contextlib
import os
import resource
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn

from mayfly_runtime import wire

_MAX_MESSAGE = 1 << 12
_MAX_FDS = 16
STOPPED_S = 0.25  # from the worker's death to that of its instances, if they can be stopped meanwhile


class ForkServer:
    """``run`` is what a child does; it never returns.

    With ``own_orphans``, what children leave behind comes to this process.
    """

    def __init__(self, control: socket.socket, run: Callable[[list[int]], NoReturn], *, own_orphans: bool) -> None:
        self._control = control
        self._run = run
        self._own_orphans = own_orphans
        self._children: dict[int, int] = {}  # pid → order
        self._wake, self._woken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def serve(self) -> NoReturn:
        """Until the worker closes its end."""
        signal.set_wakeup_fd(self._woken, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        poll = select.poll()
        for fd in (self._control.fileno(), self._wake):
            poll.register(fd, select.POLLIN)
        try:
            while True:
                ready = {fd for fd, _ in poll.poll()}
                if self._wake in ready:
                    os.read(self._wake, 4096)
                    self._reap()
                if self._control.fileno() in ready:
                    self._take_order()
        except (EOFError, ConnectionError):
            self._end()

    def tell(self, message: dict[str, Any], fd: int | None = None) -> None:
        ancillary = [] if fd is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fd.to_bytes(4, sys.byteorder))]
        self._control.sendmsg([wire.encode(message)], ancillary)

    def _take_order(self) -> None:
        # not `socket.recv_fds`, which drops its flags
        data, ancillary, _, _ = self._control.recvmsg(
            _MAX_MESSAGE, socket.CMSG_LEN(4 * _MAX_FDS), socket.MSG_CMSG_CLOEXEC
        )
        if not data:
            raise EOFError
        fds = [fd for _, _, raw in ancillary for fd in memoryview(raw).cast("i")]
        order = wire.decode(data)["id"]
        try:
            self._fork(order, fds)
        except OSError as error:
            self.tell({"kind": "failed", "id": order, "message": f"fork: {error.strerror}"})
        finally:
            for fd in fds:
                os.close(fd)

    def _fork(self, order: int, fds: list[int]) -> None:
        pid = os.fork()
        if not pid:
            self._leave()
            self._run(fds)
        self._children[pid] = order
        pidfd = os.pidfd_open(pid)
        self.tell({"kind": "forked", "id": order}, pidfd)
        os.close(pidfd)

    def _end(self) -> NoReturn:
        """The worker has ended them all, or is dead."""
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        if os.getpid() == 1:
            os.kill(-1, signal.SIGSTOP)  # all of this pid namespace
        until = time.monotonic() + STOPPED_S
        with contextlib.suppress(ChildProcessError):  # there are none left
            while (left_s := until - time.monotonic()) > 0:
                if os.waitpid(-1, os.WNOHANG) == (0, 0):
                    signal.sigtimedwait({signal.SIGCHLD}, left_s)
        os._exit(0)

    def _leave(self) -> None:
        """In the child: nothing of the server's is its own."""
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self._control.close()
        os.close(self._wake)
        os.close(self._woken)

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
        if self._own_orphans:
            self._end_orphans()
        for order, status, used in ended:
            self.tell(_exited(order, status, used))

    def _end_orphans(self) -> None:
        for pid in children():
            if pid not in self._children:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def children() -> list[int]:
    """Of this process; none where /proc is not of its own pid namespace, or the kernel does not tell."""
    try:
        if os.readlink("/proc/self") != str(os.getpid()):
            return []
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            return [int(pid) for pid in file.read().split()]
    except OSError:
        return []


def _exited(order: int, status: int, used: resource.struct_rusage) -> dict[str, Any]:
    return {
        "kind": "exited",
        "id": order,
        "code": os.waitstatus_to_exitcode(status),
        "cpu_ms": (used.ru_utime + used.ru_stime) * 1000,
        "max_rss_kb": used.ru_maxrss,
    }
