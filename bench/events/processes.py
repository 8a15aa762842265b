"""Starts and ends what is measured: a peer's worker, the publisher of each, and Redis."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

BENCH = Path(__file__).parents[1]
PEERS_BIN = BENCH.parent / ".venv-bench" / "bin"


@dataclass
class Worker:
    """A peer's one worker, a process group of its own with whatever it starts."""

    command: list[str]
    environment: Mapping[str, str]
    log: Path
    process: subprocess.Popen[bytes] = field(init=False)

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, env=self.environment, cwd=self.log.parent, stdout=log, stderr=log, start_new_session=True
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def kill(self) -> None:
        """-9 for all of it, as it happens to a machine."""
        os.killpg(self.pid, signal.SIGKILL)
        self.process.wait()

    def last_words(self) -> str:
        return self.log.read_text(errors="replace")[-1_000:].strip() or "nothing"


class Publisher:
    def __init__(self, python: Path, module: str, environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            [python, "-m", "events.publisher", module], env=environment,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
        )  # fmt: skip

    def begin(self, ids: range, sleep_s: float = 0.0) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{ids.start} {len(ids)} {sleep_s}\n")

    def began_ns(self) -> int:
        """When the first one of the last `begin` was sent; waits until all are stored."""
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())

    def stop(self) -> None:
        self._process.kill()
        self._process.communicate()


@contextmanager
def redis(folder: Path) -> Iterator[tuple[str, int] | None]:
    """Its URL and pid; None when this machine has no redis-server.

    With an append-only file, flushed every second: what JetStream's file storage gives, which writes before it
    acknowledges and leaves the flush to later. Redis's default, a snapshot now and then, would lose on a kill.
    """
    program = shutil.which("redis-server")
    if program is None:
        yield None
        return
    folder.mkdir()
    port = _free_port()
    command = [program, "--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder), "--appendonly", "yes"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        _wait_for_port(port)
        yield f"redis://127.0.0.1:{port}/0", process.pid
    finally:
        process.terminate()
        process.wait(timeout=10)


def environment(**variables: str) -> dict[str, str]:
    """What every process here starts with: this package can be imported, and the bench be told."""
    return {**os.environ, "PYTHONPATH": str(BENCH), **variables}


def cpu_s(pid: int) -> float:
    """CPU seconds so far of a process and all below it."""
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0.0
    return sum(_own_cpu_s(member) for member in family)


def _own_cpu_s(process: psutil.Process) -> float:
    try:
        return float(sum(process.cpu_times()[:2]))
    except psutil.NoSuchProcess:
        return 0.0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for_port(port: int) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.01)
    raise TimeoutError(f"nothing listens on port {port}")
