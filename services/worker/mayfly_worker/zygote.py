"""The worker's end of a zygote: orders with file descriptors go out, what became of them comes back."""

import asyncio
import contextlib
import importlib.util
import os
import socket
import sys
from collections import deque
from pathlib import Path

import msgspec

from mayfly_worker.instance_process import Process, Status

_MAX_MESSAGE = 1 << 18
_MAX_FDS = 4
_START_S = 20.0
_END_S = 2.0
_ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "LANG": "C.UTF-8",
    # one thread each: a function's share of a core is not known, and threads of a parent do not survive a fork
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}


class ZygoteFailed(Exception):
    """The zygote did not start."""


class Hello(msgspec.Struct, frozen=True):
    """What the zygote found that this kernel gives."""

    private_root: bool
    own_pids: bool
    uids: bool
    landlock: int
    notes: list[str]


class _Message(msgspec.Struct, frozen=True):
    kind: str
    id: int = 0
    message: str = ""
    code: int = 0
    cpu_ms: float = 0.0
    max_rss_kb: int = 0


_decode = msgspec.msgpack.Decoder(_Message).decode
_encode = msgspec.msgpack.Encoder().encode


class Zygote:
    """One zygote process, from `start` to its end.

    `died` is set when it is gone; by then each of its processes has ended too.
    """

    def __init__(self, control: socket.socket, process: asyncio.subprocess.Process, hello: Hello) -> None:
        self.hello = hello
        self.died = asyncio.Event()
        self._control = control
        self._process = process
        self._loop = asyncio.get_running_loop()
        self._orders = 0
        self._processes: dict[int, Process] = {}
        self._unsent: deque[tuple[bytes, list[int]]] = deque()
        self._loop.add_reader(control, self._on_message)

    @classmethod
    async def start(cls, root: Path, ports: list[int]) -> "Zygote":
        """``root``: an empty folder to make its private root at; ``ports``: those that every function may connect to.

        Raises `ZygoteFailed`."""
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        here.setblocking(False)
        runtime = _folder_of("mayfly_runtime")
        bootstrap = str(runtime / "mayfly_runtime" / "bootstrap.py")
        folders = [str(runtime), str(_folder_of("msgpack"))]
        with there:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", "-X", "utf8", bootstrap, str(there.fileno()), *folders),
                env=_ENVIRONMENT,
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(there.fileno(),),
                start_new_session=True,
            )
        loop = asyncio.get_running_loop()
        try:
            await loop.sock_sendall(here, _encode({"root": str(root), "ports": ports}))
            raw = await asyncio.wait_for(loop.sock_recv(here, _MAX_MESSAGE), _START_S)
            hello = msgspec.msgpack.decode(raw, type=Hello)
        except (OSError, TimeoutError, msgspec.MsgspecError) as error:
            here.close()
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            status = await process.wait()
            raise ZygoteFailed(f"the zygote of {sys.executable} did not start (exit {status}): {error}") from error
        return cls(here, process, hello)

    def fork(self, process: Process, fds: list[int]) -> None:
        """``fds``: its socket, stdout, stderr, control group if any; they are closed here."""
        self._orders += 1
        self._processes[self._orders] = process
        message = _encode({"id": self._orders})
        if self._unsent or not self._send(message, fds):
            self._unsent.append((message, fds))
            self._loop.add_writer(self._control, self._send_rest)

    async def stop(self) -> None:
        """Ends it, and with it everything that it started."""
        if not self.died.is_set():
            self._on_death()
        await self.wait()

    async def wait(self) -> None:
        """Until it is gone. What it leaves to the kernel, as PID 1, is gone before its guard is."""
        await self.died.wait()
        try:
            await asyncio.wait_for(self._process.wait(), _END_S)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()

    def _send(self, message: bytes, fds: list[int]) -> bool:
        try:
            socket.send_fds(self._control, [message], fds)
        except BlockingIOError:
            return False
        except OSError:
            pass  # it is dying: `_on_death` ends this order's process
        for fd in fds:
            os.close(fd)
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
                self._on_death()
                return
            self._handle(_decode(data), fds)

    def _handle(self, message: _Message, fds: list[int]) -> None:
        if message.kind == "forked":
            self._processes[message.id].forked(fds[0])
        elif message.kind == "failed":
            self._processes.pop(message.id).fail(message.message)
        elif message.kind == "exited":
            status = Status(message.code, message.cpu_ms, message.max_rss_kb)
            self._processes.pop(message.id).finish(status)

    def _on_death(self) -> None:
        self._loop.remove_reader(self._control)
        self._loop.remove_writer(self._control)
        self._control.close()
        for _, fds in self._unsent:
            for fd in fds:
                os.close(fd)
        self._unsent.clear()
        for process in list(self._processes.values()):
            process.kill()
            process.finish(None)
        self._processes.clear()
        self.died.set()


def _folder_of(package: str) -> Path:
    """Where a package lies, without importing it."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ZygoteFailed(f"package {package} is not installed")
    return Path(spec.origin).parent.parent


def _receive(control: socket.socket) -> tuple[bytes, list[int]]:
    """``socket.recv_fds`` would leave the descriptors open to the children of this process: it drops its flags."""
    data, ancillary, _, _ = control.recvmsg(_MAX_MESSAGE, socket.CMSG_LEN(4 * _MAX_FDS), socket.MSG_CMSG_CLOEXEC)
    return data, [fd for _, _, raw in ancillary for fd in memoryview(raw).cast("i")]
