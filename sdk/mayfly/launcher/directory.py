"""The data directory: all that one platform keeps, private to its owner and used by one `mayfly up` at a time.

DIR/platform.json      where the platform is and how to get in
DIR/access.toml        what of the user's own functions may touch; written by the user, if at all
DIR/secrets/<name>     NATS passwords by role, and the management token: made once, kept
DIR/nats/              JetStream, and the server's log
DIR/nodes/<node>/      what a worker keeps: its code cache
DIR/logs/<name>.log    what each service wrote
"""

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TOKEN = "token"  # noqa: S105 - a file name

_SECRET_BYTES = 32


class InUse(Exception):
    """Another `mayfly up` has this data directory."""


class DataDirectory:
    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.nats = self.path / "nats"
        self.logs = self.path / "logs"
        self._secrets = self.path / "secrets"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Make it and keep it to ourselves; the lock is gone with this process, however that ends."""
        for folder in (self.path, self.nats, self.logs, self._secrets):
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o700)
        with open(os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600), "r+") as lock:
            if not _lock(lock.fileno()):
                raise InUse(f"{self.path} is in use by another `mayfly up` (process {lock.read() or 'unknown'})")
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            yield

    def node(self, name: str) -> Path:
        return self.path / "nodes" / name

    def log(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def secret_file(self, name: str) -> Path:
        """The file that holds a secret, made with a random one the first time; only while `locked`."""
        path = self._secrets / name
        if not path.exists():
            fresh = self._secrets / f".{name}"
            with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
                file.write(secrets.token_urlsafe(_SECRET_BYTES))
            fresh.replace(path)
        return path

    def secret(self, name: str) -> str:
        return self.secret_file(name).read_text()


def in_use(path: Path) -> bool:
    """Whether a `mayfly up` runs on this data directory."""
    try:
        with open(path / "lock") as lock:
            return not _lock(lock.fileno())
    except OSError:
        return False


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
