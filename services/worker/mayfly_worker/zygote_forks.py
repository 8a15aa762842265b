"""The worker's end of a process that forks on order, a zygote or a template.

Orders go out with file descriptors, what became of them comes back. A template runs user code, so nothing it says is
taken for granted: it can only name its own orders, and what it forks must run as its function's uid.
"""

import asyncio
import contextlib
import os
import signal
import socket
from collections import deque
from pathlib import Path

import msgspec

from mayfly_worker.instance_listener import Status
from mayfly_worker.instance_process import Process, pid_of

_MAX_MESSAGE = 1 << 12
_MAX_FDS = 4


class _Message(msgspec.Struct, frozen=True):
    kind: str
    id: int = 0
    message: str = ""
    code: int = 0
    cpu_ms: float = 0.0
    max_rss_kb: int = 0


_decode = msgspec.msgpack.Decoder(_Message).decode
_encode = msgspec.msgpack.Encoder().encode


class _Broken(Exception):
    """A message that is not in the contract."""


class ForkServer:
    """`died` is set when it is gone; by then each of its processes has ended too."""

    def __init__(self, control: socket.socket, uid: int | None = None) -> None:
        """``uid``: what every forked process must run as."""
        self.died = asyncio.Event()
        self._control = control
        self._uid = uid
        self._loop = asyncio.get_running_loop()
        self._orders = 0
        self._processes: dict[int, Process] = {}
        self._unsent: deque[tuple[bytes, list[int]]] = deque()
        control.setblocking(False)
        self._loop.add_reader(control, self._on_message)

    @property
    def alive(self) -> int:
        """Processes that were ordered and have not ended."""
        return len(self._processes)

    def fork(self, process: Process, fds: list[int]) -> None:
        """``fds`` are what the process gets; they are closed here."""
        if self.died.is_set():
            _close(fds)
            self._loop.call_soon(process.finish, None)
            return
        self._orders += 1
        self._processes[self._orders] = process
        message = _encode({"id": self._orders})
        if self._unsent or not self._send(message, fds):
            self._unsent.append((message, fds))
            self._loop.add_writer(self._control, self._send_rest)

    def close(self) -> None:
        """The end of it, and of everything that it forked. Idempotent."""
        if self.died.is_set():
            return
        self._loop.remove_reader(self._control)
        self._loop.remove_writer(self._control)
        self._control.close()
        for _, fds in self._unsent:
            _close(fds)
        self._unsent.clear()
        self.died.set()
        for process in list(self._processes.values()):
            process.kill()
            process.finish(None)
        self._processes.clear()

    def _send(self, message: bytes, fds: list[int]) -> bool:
        try:
            socket.send_fds(self._control, [message], fds)
        except BlockingIOError:
            return False
        except OSError:
            pass  # it is dying: `close` ends this order's process
        _close(fds)
        return True

    def _send_rest(self) -> None:
        while self._unsent and self._send(*self._unsent[0]):
            self._unsent.popleft()
        if not self._unsent:
            self._loop.remove_writer(self._control)

    def _on_message(self) -> None:
        for _ in range(64):
            try:
                data, fds = _receive(self._control)
            except BlockingIOError:
                return
            except OSError:
                data, fds = b"", []
            if not data:
                self.close()
                return
            try:
                self._handle(_decode(data), fds)
            except (_Broken, KeyError, msgspec.MsgspecError):
                _close(fds)
                self.close()
                return

    def _handle(self, message: _Message, fds: list[int]) -> None:
        if (message.kind == "forked") != (len(fds) == 1):
            raise _Broken
        if message.kind == "forked":
            if self._uid is not None and not _is_run_by(self._uid, fds[0]):
                raise _Broken
            self._processes[message.id].forked(fds[0])
        elif message.kind == "failed":
            self._processes.pop(message.id).fail(message.message)
        elif message.kind == "exited":
            status = Status(message.code, message.cpu_ms, message.max_rss_kb)
            self._processes.pop(message.id).finish(status)
        else:
            raise _Broken


def _receive(control: socket.socket) -> tuple[bytes, list[int]]:
    """``socket.recv_fds`` would leave the descriptors open to the children of this process: it drops its flags."""
    data, ancillary, _, _ = control.recvmsg(_MAX_MESSAGE, socket.CMSG_LEN(4 * _MAX_FDS), socket.MSG_CMSG_CLOEXEC)
    return data, [fd for _, _, raw in ancillary for fd in memoryview(raw).cast("i")]


def _is_run_by(uid: int, pidfd: int) -> bool:
    """True too of a process that is gone already."""
    try:
        status = Path(f"/proc/{pid_of(pidfd)}/status").read_text()
        signal.pidfd_send_signal(pidfd, 0)  # that number was its own all the time
    except OSError:
        return True
    return f"\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\n" in status


def _close(fds: list[int]) -> None:
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)
