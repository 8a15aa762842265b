"""Memory control groups, one for each instance, made ahead and used again.

Both layouts of the kernel are served: v2 where the memory controller was delegated to this process (systemd's
``Delegate=yes``), v1 where its hierarchy is writable. The node's own folder among them carries a lock as long as the
worker lives: a folder whose lock can be had was left by a worker that was killed, and goes.
"""

import contextlib
import fcntl
import os
import signal
from dataclasses import dataclass
from pathlib import Path

from mayfly_worker import cgroups

_PREFIX = "mayfly-"
_READY = 8  # groups made ahead
_KEPT = 64  # groups kept for use again


@dataclass(frozen=True, slots=True)
class _Layout:
    limits: tuple[str, ...]  # written in this order; all but the first may be missing
    join: str
    unlimited: str
    events: str
    resident: tuple[str, ...]  # fields of memory.stat


# A single-threaded process that joins by v1's `tasks` is spared the kernel's wait for all cores: 10 to 30 ms.
_V1 = _Layout(
    ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes"), "tasks", "-1", "memory.oom_control", ("rss", "shmem")
)
_V2 = _Layout(("memory.max",), "cgroup.procs", "max", "memory.events", ("anon", "shmem"))


class Group:
    """The processes of one instance."""

    def __init__(self, path: Path, layout: _Layout) -> None:
        self.path = path
        self._layout = layout
        self._kills_before = 0

    def limit(self, memory_mb: int) -> None:
        """Raises ``OSError`` if there can be no limit."""
        files = [self.path / name for name in self._layout.limits]
        for file in reversed(files):
            _write(file, self._layout.unlimited)
        limit = str(memory_mb * 2**20)
        files[0].write_text(limit)
        for file in files[1:]:
            _write(file, limit)
        if self._layout is _V2:
            _write(self.path / "memory.swap.max", "0")
            _write(self.path / "memory.oom.group", "1")
        self._kills_before = self._kills()

    def open(self) -> int:
        """What a process writes 0 to in order to join."""
        return os.open(self.path / self._layout.join, os.O_WRONLY | os.O_CLOEXEC)

    def ran_out_of_memory(self) -> bool:
        return self._kills() > self._kills_before

    def resident_mb(self) -> float:
        stat = _fields(self.path / "memory.stat")
        return sum(stat.get(name, 0) for name in self._layout.resident) / 2**20

    def kill(self) -> None:
        """Everything in it, also what is being forked meanwhile."""
        if _write(self.path / "cgroup.kill", "1"):
            return
        killed: set[int] = set()
        while fresh := set(self._pids()) - killed:
            for pid in fresh:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            killed |= fresh

    def empty(self) -> bool:
        return not self._pids()

    def _pids(self) -> list[int]:
        return [int(pid) for pid in (self.path / "cgroup.procs").read_text().split()]

    def _kills(self) -> int:
        return _fields(self.path / self._layout.events).get("oom_kill", 0)


class Groups:
    """The node's groups. `find` gives None where this process may not make any."""

    def __init__(self, path: Path, layout: _Layout, lock: int) -> None:
        self._path = path
        self._layout = layout
        self._lock = lock
        self._made = 0
        self._free: list[Group] = []
        self._emptying: list[Group] = []
        self.fill()

    @classmethod
    def find(cls) -> "Groups | None":
        for layout, base in _bases():
            _remove_abandoned(base, layout)
            with contextlib.suppress(OSError):
                if layout is _V2:
                    _delegate(base)
                path = base / f"{_PREFIX}{os.getpid()}-{os.urandom(3).hex()}"
                path.mkdir()
                if layout is _V2:
                    (path / "cgroup.subtree_control").write_text("+memory")
                lock = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                fcntl.flock(lock, fcntl.LOCK_EX)
                return cls(path, layout, lock)
        return None

    def lease(self) -> Group:
        return self._free.pop() if self._free else self._make()

    def give_back(self, group: Group) -> None:
        """Its processes may be dying still."""
        self._emptying.append(group)

    def fill(self) -> None:
        """Makes groups ready for the next instances: for a moment when nobody waits."""
        dying = [group for group in self._emptying if not group.empty()]
        for group in self._emptying:
            if group not in dying:
                self._keep(group)
        self._emptying = dying
        while len(self._free) < _READY:
            self._free.append(self._make())

    def close(self) -> None:
        os.close(self._lock)
        _remove_abandoned(self._path.parent, self._layout)

    def _keep(self, group: Group) -> None:
        if len(self._free) < _KEPT:
            self._free.append(group)
        else:
            _remove(group.path)

    def _make(self) -> Group:
        self._made += 1
        path = self._path / f"i{self._made}"
        path.mkdir()
        return Group(path, self._layout)


def _bases() -> list[tuple[_Layout, Path]]:
    """Where this process's own groups begin, in each hierarchy that limits memory."""
    places = cgroups.own()
    bases = [(layout, places[name].path) for name, layout in (("memory", _V1), ("", _V2)) if name in places]
    return [(layout, base) for layout, base in bases if os.access(base, os.W_OK)]


def _delegate(base: Path) -> None:
    """Lets groups below ``base`` limit memory.

    A group with processes cannot: this one, if alone, moves one down. Raises ``OSError``.
    """
    control = base / "cgroup.subtree_control"
    if "memory" in control.read_text().split():
        return
    if (base / "cgroup.procs").read_text().split() == [str(os.getpid())]:
        leaf = base / "worker"
        leaf.mkdir(exist_ok=True)
        (leaf / "cgroup.procs").write_text("0")
    control.write_text("+memory")


def _remove_abandoned(base: Path, layout: _Layout) -> None:
    for folder in base.glob(f"{_PREFIX}*"):
        pid = folder.name.split("-")[1]
        if pid != str(os.getpid()) and os.path.exists(f"/proc/{pid}"):
            continue  # it may be between making its folder and locking it
        with contextlib.suppress(OSError):
            lock = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                for path in folder.glob("i*"):
                    Group(path, layout).kill()
                    _remove(path)
                folder.rmdir()
            finally:
                os.close(lock)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.rmdir()


def _write(file: Path, text: str) -> bool:
    try:
        with open(file, "w") as opened:
            opened.write(text)
    except OSError:
        return False
    return True


def _fields(file: Path) -> dict[str, int]:
    """The ``name number`` lines of a file; nothing if it is gone."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return {}
    return {name: int(value) for name, value in (line.split() for line in lines)}
