"""What this node may use of the machine it runs on, and how much of that is used: the limits of its control groups
where they are tighter than the machine, as in a container, else the machine's own.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from math import ceil
from pathlib import Path
from typing import NamedTuple

import psutil

from mayfly_worker import cgroups
from mayfly_worker.cgroups import Place

SHORTEST_S = 0.25  # of a look at the processors: their time is counted in hundredths of a second


class Memory(NamedTuple):
    used_mb: float  # without what can be taken back at once
    total_mb: float


class _MemoryLimit(NamedTuple):
    total: int  # bytes
    usage: Path
    reclaimable: str  # field of memory.stat
    stat: Path


class _Processors(NamedTuple):
    cores: float
    used_s: Callable[[], float]  # of their time, by all that may use them; counted from anywhere


class Machine:
    """``places``: this process's control groups."""

    def __init__(self, places: Mapping[str, Place] | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        places = cgroups.own() if places is None else places
        self._clock = clock
        self._memory = min(_memory_limits(places), default=None, key=lambda limit: limit.total)
        if self._memory is not None and self._memory.total >= psutil.virtual_memory().total:
            self._memory = None
        self._processors = min((_own_processors(), *_shares_of_time(places)), key=lambda limit: limit.cores)
        self._percent = 0.0
        self._looked_at = clock()
        self._used_s = self._processors.used_s()

    @property
    def cores(self) -> int:
        return max(1, ceil(self._processors.cores))

    @property
    def memory_mb(self) -> int:
        return (psutil.virtual_memory().total if self._memory is None else self._memory.total) >> 20

    def memory(self) -> Memory:
        """Of the machine or of its own group, whichever is nearer to its end."""
        machine = psutil.virtual_memory()
        whole = Memory((machine.total - machine.available) / 2**20, machine.total / 2**20)
        limit = self._memory
        if limit is None:
            return whole
        used = int(_read(limit.usage) or 0) - _fields(limit.stat).get(limit.reclaimable, 0)
        own = Memory(used / 2**20, limit.total / 2**20)
        return max(whole, own, key=lambda memory: memory.used_mb / memory.total_mb)

    def cpu_percent(self) -> float:
        """Of what the node may use, over a quarter of a second or longer."""
        now = self._clock()
        passed_s = now - self._looked_at
        if passed_s >= SHORTEST_S:
            used_s = self._processors.used_s()
            self._percent = max(0.0, min(100.0, 100 * (used_s - self._used_s) / (passed_s * self._processors.cores)))
            self._looked_at, self._used_s = now, used_s
        return self._percent


def _memory_limits(places: Mapping[str, Place]) -> Iterator[_MemoryLimit]:
    for controller, limit, usage, reclaimable in (
        ("", "memory.max", "memory.current", "inactive_file"),
        ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        for group in _with_parents(places.get(controller)):
            text = _read(group / limit)
            if text.isdigit():
                yield _MemoryLimit(int(text), group / usage, reclaimable, group / "memory.stat")


def _own_processors() -> _Processors:
    """Those that this process may run on."""
    cpus = {f"cpu{number}" for number in os.sched_getaffinity(0)}
    tick_s = 1 / os.sysconf("SC_CLK_TCK")

    def used_s() -> float:
        ticks = 0
        for line in _read(Path("/proc/stat")).splitlines():
            name, *times = line.split()
            if name in cpus:
                user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, times[:8])
                ticks += user + nice + system + irq + softirq + steal
        return ticks * tick_s

    return _Processors(len(cpus), used_s)


def _shares_of_time(places: Mapping[str, Place]) -> Iterator[_Processors]:
    for group in _with_parents(places.get("")):
        quota, _, period = _read(group / "cpu.max").partition(" ")
        if quota.isdigit():
            yield _Processors(int(quota) / int(period), _used_unified(group))
    cpu, accounts = places.get("cpu"), places.get("cpuacct")
    for group in _with_parents(cpu):
        quota = _read(group / "cpu.cfs_quota_us")
        if quota.isdigit() and cpu is not None and accounts is not None:
            file = accounts.top / group.relative_to(cpu.top) / "cpuacct.usage"
            yield _Processors(int(quota) / int(_read(group / "cpu.cfs_period_us")), _used_split(file))


def _used_unified(group: Path) -> Callable[[], float]:
    return lambda: _fields(group / "cpu.stat").get("usage_usec", 0) / 1e6


def _used_split(file: Path) -> Callable[[], float]:
    return lambda: int(_read(file) or 0) / 1e9


def _with_parents(place: Place | None) -> Iterator[Path]:
    """A limit of a group above counts as well."""
    if place is not None:
        yield place.path
        if place.path != place.top:
            yield from (path for path in place.path.parents if path.is_relative_to(place.top))


def _read(file: Path) -> str:
    """ "" where there is no such file, as in the topmost group."""
    try:
        return file.read_text().strip()
    except OSError:
        return ""


def _fields(file: Path) -> dict[str, int]:
    return {name: int(value) for name, value in (line.split() for line in _read(file).splitlines())}
