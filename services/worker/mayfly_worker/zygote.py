"""Starts a zygote, and sees it end."""

import asyncio
import contextlib
import importlib.util
import socket
import sys
from pathlib import Path

import msgspec

from mayfly_worker.zygote_forks import ForkServer

_MAX_MESSAGE = 1 << 18
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


class Zygote:
    """One zygote process, from `start` to its end. What it forks goes through `forks`."""

    def __init__(self, forks: ForkServer, process: asyncio.subprocess.Process, hello: Hello) -> None:
        self.forks = forks
        self.hello = hello
        self._process = process

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
            await loop.sock_sendall(here, msgspec.msgpack.encode({"root": str(root), "ports": ports}))
            raw = await asyncio.wait_for(loop.sock_recv(here, _MAX_MESSAGE), _START_S)
            hello = msgspec.msgpack.decode(raw, type=Hello)
        except (OSError, TimeoutError, msgspec.MsgspecError) as error:
            here.close()
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            status = await process.wait()
            raise ZygoteFailed(f"the zygote of {sys.executable} did not start (exit {status}): {error}") from error
        return cls(ForkServer(here), process, hello)

    @property
    def alive(self) -> bool:
        return not self.forks.died.is_set()

    async def stop(self) -> None:
        """Ends it, and with it everything that it started."""
        self.forks.close()
        await self.wait()

    async def wait(self) -> None:
        """Until it is gone. What it leaves to the kernel, as PID 1, is gone before its guard is."""
        await self.forks.died.wait()
        try:
            await asyncio.wait_for(self._process.wait(), _END_S)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()


def _folder_of(package: str) -> Path:
    """Where a package lies, without importing it."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ZygoteFailed(f"package {package} is not installed")
    return Path(spec.origin).parent.parent
