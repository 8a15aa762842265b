"""One instance process as the worker sees it: its socket, its output, its end.

What comes over the socket was written by a process that runs user code: a frame that breaks the contract ends that
process.

An end is learnt twice: the pidfd says that the process is gone, its parent's message (through the zygote) says how it
went and what it used. Both are waited for, the message only for a moment; then what is left in socket and pipes is
read, and `Listener.on_exit` is the last thing that happens.
"""

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections import deque
from pathlib import Path
from typing import Any, Protocol

import msgspec

from mayfly_proto import codec
from mayfly_worker import instance_frames
from mayfly_worker.instance_frames import Lines
from mayfly_worker.instance_listener import Exit, Launch, Listener, Nobody, Status
from mayfly_worker.sandbox_groups import Group

_STREAMS = {1: "stdout", 2: "stderr"}

_READ = 1 << 16  # larger buffers are mapped and unmapped by malloc for every read
_TAIL = 4096
_POLITE_S = 2.0
_STATUS_S = 0.25


class Owner(Protocol):
    """Who made a process and is told first."""

    def process_ready(self, process: "Process", phases_ms: dict[str, float]) -> None: ...
    def process_ended(self, process: "Process") -> None: ...


class Process:
    """Guard of one instance process. Every method may be called at any time, also after its end."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        owner: Owner,
    ) -> None:
        self.launch: Launch | None = None  # None as long as it is a spare
        self.pid = 0  # in the worker's own pid namespace; 0 until the fork is reported
        self.group: Group | None = None
        self.ended = False
        self._listener: Listener = Nobody()
        self._loop = loop
        self._owner = owner
        self._began = 0.0
        self._pidfd = -1
        self._socket: socket.socket | None = None
        self._frames = instance_frames.Frames()
        self._unsent = bytearray()
        self._taken = 0  # of what had to wait in `_unsent`, in bytes
        self._unread: deque[int] = deque()  # where in that each answer ends
        self._pipes: dict[int, Lines] = {}
        self._killed = False
        self._over_limit = False
        self._tail = b""
        self._timers: list[asyncio.TimerHandle] = []

    def __repr__(self) -> str:
        state = "ended" if self.ended else "killed" if self._killed else "alive"
        name = self.launch.instance if self.launch else "spare"
        return f"<Process {name} pid={self.pid} {state}>"

    # -- what the worker does with it

    def send(
        self,
        call: int,
        invocation: str,
        budget_ms: int,
        cold: bool,
        attempt: int,
        headers: bytes | None,
        payload: bytes,
    ) -> None:
        if self._socket is None:
            return  # its end is told by on_exit
        self._send(
            codec.pack_instance(instance_frames.EVENT, (call, invocation, budget_ms, cold, attempt, headers), payload)
        )

    def answer(self, ask: int, value: object, payload: bytes = b"", *, ok: bool = True) -> None:
        """What it asked for, or ``ok=False`` and why not."""
        if self._socket is None:
            return
        self._send(codec.pack_instance(instance_frames.ANSWER, (ask, ok, value), payload))
        if self._unsent:
            self._unread.append(self._taken + len(self._unsent))

    @property
    def unread(self) -> int:
        """Answers that it has not begun to take, or not taken whole."""
        while self._unread and self._unread[0] <= self._taken:
            self._unread.popleft()
        return len(self._unread)

    def stop(self) -> None:
        """Politely: close the socket; the process ends by itself, and is killed after 2 s if it does not."""
        if self._socket is not None:
            self._loop.remove_writer(self._socket)
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_WR)
            self._timers.append(self._loop.call_later(_POLITE_S, self.kill))

    def kill(self) -> None:
        """Now, with everything it started."""
        self._killed = True
        if self.ended or self._pidfd < 0:
            return  # `forked` does it
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        if self.group is not None:
            self.group.kill()

    def resident_mb(self) -> float:
        """Without what it shares with its siblings; of its whole group, or of the process where there are no groups."""
        if self.ended or not self.pid:
            return 0.0
        if self.group is not None:
            return self.group.resident_mb()
        try:
            pages = Path(f"/proc/{self.pid}/statm").read_text().split()
        except OSError:
            return 0.0
        return (int(pages[1]) - int(pages[2])) * os.sysconf("SC_PAGE_SIZE") / 2**20

    def private_mb(self) -> float:
        """What the node would have back if it went; dearer than `resident_mb` where there are no groups. 0: unknown."""
        if self.group is not None or self.ended or not self.pid:
            return self.resident_mb()
        try:
            lines = Path(f"/proc/{self.pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            return self.resident_mb()  # of another user, and this process may not look into it
        return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024

    # -- what the runtime tells it

    def assign(self, launch: Launch, listener: Listener) -> None:
        """Whose it is from now on; its start is counted from here."""
        self.launch = launch
        self._listener = listener
        self._began = time.monotonic()

    def start(self, fields: dict[str, Any], fds: list[int]) -> None:
        """Makes a spare the instance of its launch. ``fds``, its code's mount if any, are closed here."""
        frame = codec.pack_instance(instance_frames.START, fields | {"sent": self._began})
        sent = 0
        if self._socket is not None:
            with contextlib.suppress(OSError):
                sent = socket.send_fds(self._socket, [frame], fds)
            self._send_later(frame[sent:])
        for fd in fds:
            os.close(fd)

    @property
    def wired(self) -> bool:
        return self._socket is not None

    def wire(self) -> list[int]:
        """Makes socket and pipes; returns the ends that the process is to get. Raises ``OSError``."""
        theirs: list[int] = []
        try:
            self._socket, there = socket.socketpair()
            theirs.append(there.detach())
            self._socket.setblocking(False)
            self._loop.add_reader(self._socket, self._on_socket)
            for stream in ("stdout", "stderr"):
                fd, write_end = os.pipe2(os.O_CLOEXEC)
                theirs.append(write_end)
                os.set_blocking(fd, False)
                self._pipes[fd] = Lines(stream)
                self._loop.add_reader(fd, self._on_pipe, fd)
        except OSError:
            for fd in theirs:
                os.close(fd)
            raise
        return theirs

    def forked(self, pidfd: int) -> None:
        if self.ended:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.close(pidfd)
            return
        self._pidfd = pidfd
        self.pid = pid_of(pidfd)
        self._loop.add_reader(pidfd, self._on_gone)
        if self._killed:
            self.kill()

    def fail(self, message: str) -> None:
        """It could not be forked, or not be given what it needs."""
        if self.ended:
            return
        self._listener.on_init_error(message, "")
        self.kill()
        if self._pidfd < 0:
            self.finish(None)

    def end_over_limit(self) -> None:
        """Found above its memory limit where no control group enforces it."""
        self._over_limit = True
        self.kill()

    def finish(self, status: Status | None) -> None:
        """The process is gone: reads what it left, and says so. Idempotent."""
        if self.ended:
            return
        if self.group is not None:
            self.group.kill()  # what it started may live, and hold the pipes
        self._drain()
        self.ended = True
        self._close()
        out_of_memory = self._over_limit or (
            self.group is not None
            and status is not None
            and status.code == -signal.SIGKILL
            and self.group.ran_out_of_memory()
        )
        code = None if status is None else status.code
        self._owner.process_ended(self)
        self._listener.on_exit(
            Exit(
                code=code if code is not None and code >= 0 else None,
                signal=-code if code is not None and code < 0 else None,
                out_of_memory=out_of_memory,
                stderr_tail=self._tail.decode("utf-8", "replace"),
                cpu_ms=0.0 if status is None else status.cpu_ms,
                max_rss_kb=0 if status is None else status.max_rss_kb,
            )
        )

    # -- edges

    def _on_gone(self) -> None:
        self._loop.remove_reader(self._pidfd)
        self._timers.append(self._loop.call_later(_STATUS_S, self.finish, None))

    def _send(self, frame: bytes) -> None:
        if self._socket is None or self._unsent:
            self._unsent += frame
            return
        try:
            sent = self._socket.send(frame)
        except BlockingIOError:
            sent = 0
        except OSError:
            return
        if sent < len(frame):
            self._send_later(frame[sent:])

    def _send_later(self, rest: bytes) -> None:
        if rest and self._socket is not None:
            self._unsent += rest
            self._loop.add_writer(self._socket, self._send_rest)

    def _send_rest(self) -> None:
        sock = self._socket
        if sock is None:
            return
        try:
            sent = sock.send(self._unsent)
            del self._unsent[:sent]
            self._taken += sent
        except BlockingIOError:
            return
        except OSError:
            self._taken += len(self._unsent)
            self._unsent.clear()
        if not self._unsent:
            self._loop.remove_writer(sock)

    def _on_socket(self) -> bool:
        """True when there may be more."""
        if self._socket is None:
            return False
        try:
            data = self._socket.recv(_READ)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._loop.remove_reader(self._socket)
            return False
        try:
            for kind, meta, payload in self._frames.feed(data):
                self._dispatch(kind, meta, payload)
        except (instance_frames.Broken, msgspec.MsgspecError, ValueError) as error:
            self._refuse(error)
            return False
        return True

    def _refuse(self, error: Exception) -> None:
        if self._socket is not None:
            self._loop.remove_reader(self._socket)
            self._socket.close()
            self._socket = None
        self._keep_tail(f"instance broke the runtime's contract: {error}\n".encode())
        self.kill()

    def _dispatch(self, kind: int, raw: bytes, payload: bytes) -> None:
        if kind == instance_frames.RESULT:
            call, content_type, extra = instance_frames.decode_result(raw)
            if extra is not None:
                instance_frames.check_header_lines(extra)
            self._listener.on_result(call, content_type, extra, payload)
        elif kind == instance_frames.LOG:
            stream, invocation = instance_frames.decode_log(raw)
            if stream == 2:
                self._keep_tail(payload)
            self._listener.on_log(_STREAMS.get(stream, "stdout"), invocation, payload)
        elif kind == instance_frames.ERROR:
            self._listener.on_error(*instance_frames.decode_error(raw))
        elif kind == instance_frames.ASK:
            ask, call, verb, arguments = instance_frames.decode_ask(raw)
            self._listener.on_ask(ask, call, verb, arguments, payload)
        elif kind == instance_frames.READY:
            phases = instance_frames.decode_ready(raw)
            self._owner.process_ready(self, phases)
            self._listener.on_ready(phases | {"total": round((time.monotonic() - self._began) * 1000, 3)})
        elif kind == instance_frames.INIT_ERROR:
            self._listener.on_init_error(*instance_frames.decode_init_error(raw))
        else:
            raise instance_frames.Broken(f"frame of kind {kind}")

    def _on_pipe(self, fd: int) -> bool:
        """True when there may be more."""
        try:
            data = os.read(fd, _READ)
        except BlockingIOError:
            return False
        lines = self._pipes[fd]
        whole = lines.feed(data) if data else lines.rest()
        if lines.stream == "stderr":
            self._keep_tail(data)
        if whole:
            self._listener.on_log(lines.stream, "", whole)
        if not data:
            self._loop.remove_reader(fd)
        return bool(data)

    def _keep_tail(self, data: bytes) -> None:
        self._tail = (self._tail + data)[-_TAIL:]

    def _drain(self) -> None:
        """A process that is gone has written all it will; one that it left behind may go on, so there is a bound."""
        for _ in range(1024):
            if not self._on_socket():
                break
        for fd, lines in self._pipes.items():
            for _ in range(64):
                if not self._on_pipe(fd):
                    break
            if rest := lines.rest():
                self._listener.on_log(lines.stream, "", rest)

    def _close(self) -> None:
        for timer in self._timers:
            timer.cancel()
        if self._socket is not None:
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
            self._socket.close()
            self._socket = None
        for fd in (*self._pipes, self._pidfd):
            if fd >= 0:
                self._loop.remove_reader(fd)
                os.close(fd)
        self._pipes.clear()
        self._pidfd = -1


def pid_of(pidfd: int) -> int:
    """In this process's pid namespace; 0 if it is gone."""
    for line in Path(f"/proc/self/fdinfo/{pidfd}").read_text().splitlines():
        if line.startswith("Pid:"):
            return max(0, int(line.split()[1]))
    return 0
