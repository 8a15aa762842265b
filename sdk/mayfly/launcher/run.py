"""One run of one process of the platform: started on construction, watched until it ends, and how it ended.

The kernel ends every process together with the thread that started it (PDEATHSIG), also when `mayfly up` is killed
with -9; so all are started from the main thread. Each has a process group of its own: Ctrl-C is for `mayfly up`,
which then stops them in order.
"""

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from mayfly.launcher.log_file import LogFile
from mayfly_broker.server import EmbeddedServer

_PR_SET_PDEATHSIG = 1
_READ_BYTES = 65536


class Run(Protocol):
    pid: int
    ready: bool  # already when constructed; others say so later
    ended: asyncio.Future[str]  # how, in words

    def terminate(self) -> None:
        """Ask it to end in good order. May be called at any time."""

    def kill(self) -> None:
        """End it now, with what it started. May be called at any time."""


class NatsRun:
    """nats-server: takes connections once this is constructed. Raises `ServerError`."""

    ready = True

    def __init__(self, server: EmbeddedServer) -> None:
        server.start()
        self._server = server
        self.pid = server.pid
        self.ended = _watch(self.pid, self._end)

    def _end(self) -> str:
        self._server.stop()  # collects the process and gives the store's lock back
        return f"see {self._server.log_file}"

    def terminate(self) -> None:
        _signal(self, signal.SIGTERM)

    def kill(self) -> None:
        _signal(self, signal.SIGKILL)


class ServiceRun:
    """``python -m <module>``; what it writes goes to a log, and to ``show`` if that is given."""

    ready = False

    def __init__(
        self, module: str, environment: Mapping[str, str], log: Path, show: Callable[[bytes], None] | None
    ) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", module],  # -P: nothing is imported from the current folder
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            process_group=0,
            preexec_fn=_die_with_parent(),
        )
        assert self._process.stdout is not None
        self._output = self._process.stdout.fileno()
        os.set_blocking(self._output, False)
        self._log = LogFile(log)
        self._show = show
        self.pid = self._process.pid
        asyncio.get_running_loop().add_reader(self._output, self._read)
        self.ended = _watch(self.pid, self._end)

    def _read(self) -> bool:
        """Whether there may be more."""
        try:
            chunk = os.read(self._output, _READ_BYTES)
        except BlockingIOError:
            return False
        if not chunk:
            asyncio.get_running_loop().remove_reader(self._output)
            return False
        self._log.write(chunk)
        if self._show is not None:
            self._show(chunk)
        return True

    def _end(self) -> str:
        code = self._process.wait()
        while self._read():
            pass
        asyncio.get_running_loop().remove_reader(self._output)
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._log.close()
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def terminate(self) -> None:
        _signal(self, signal.SIGTERM)

    def kill(self) -> None:
        _signal(self, signal.SIGKILL)


def _watch(pid: int, end: Callable[[], str]) -> asyncio.Future[str]:
    """Done when the process has ended, with what ``end`` says then."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[str] = loop.create_future()
    descriptor = os.pidfd_open(pid)

    def on_end() -> None:
        loop.remove_reader(descriptor)
        os.close(descriptor)
        ended.set_result(end())

    loop.add_reader(descriptor, on_end)
    return ended


def _signal(run: Run, number: signal.Signals) -> None:
    if not run.ended.done():
        os.killpg(run.pid, number) if number == signal.SIGKILL else os.kill(run.pid, number)


def _die_with_parent() -> Callable[[], None]:
    prctl = ctypes.CDLL(None).prctl
    parent = os.getpid()

    def apply() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the call above
            os._exit(1)

    return apply
