"""Measures what instances use: the processor time of those that ran, once a second, and the memory of one a second. At
most a few at each look, so that none holds the warm path up, however many there are.
"""

import os
from collections.abc import Callable, Iterable

from mayfly_worker.group import Group, Instance
from mayfly_worker.pool import Pool

AT_ONCE = 50  # instances in one look
EVERY_S = 1.0

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_USER, _CHILDREN_SYSTEM = 11, 14  # fields of /proc/<pid>/stat, counted from behind the name


class Meter:
    def __init__(self, pool: Pool, now: Callable[[], float]) -> None:
        self._pool = pool
        self._now = now
        self._memory_at = 0.0

    def look(self) -> None:
        """Several times a second."""
        now = self._now()
        for instance in who_ran(self._pool.instances.values(), now):
            if instance.process is not None and (spent_s := _processor_s(instance.process.pid)) is not None:
                note(instance, spent_s, now)
        if now - self._memory_at >= EVERY_S:
            self._memory_at = now
            self._measure_memory(now)

    def _measure_memory(self, now: float) -> None:
        instance = whose_memory(self._pool.groups.values())
        if instance is None or instance.process is None:
            return
        instance.group.measured_at = instance.usage.measured_at = now
        if private_mb := instance.process.private_mb():
            instance.group.measured(private_mb)


def who_ran(instances: Iterable[Instance], now: float) -> list[Instance]:
    """Those that may have used processor time since they were looked at last, the longest ago first."""
    ran = []
    for instance in instances:
        usage = instance.usage
        if not instance.ready:
            continue
        if usage.spent_s is None or instance.in_flight or usage.busy or instance.calls != usage.calls:
            if now - usage.looked_at >= EVERY_S:
                ran.append(instance)
        else:
            usage.cpu_percent = 0.0
            usage.looked_at = now
    ran.sort(key=lambda instance: instance.usage.looked_at)
    return ran[:AT_ONCE]


def note(instance: Instance, spent_s: float, now: float) -> None:
    """It has used so much processor time since it was forked."""
    usage = instance.usage
    if usage.spent_s is not None and now > usage.looked_at:
        usage.cpu_percent = 100 * (spent_s - usage.spent_s) / (now - usage.looked_at)
    usage.spent_s = spent_s
    usage.looked_at = now
    usage.calls = instance.calls
    usage.busy = instance.in_flight > 0


def whose_memory(groups: Iterable[Group]) -> Instance | None:
    """One of the version that was measured the longest ago, and of its ready instances the one measured so."""
    candidates = [instance for group in groups for instance in group.members.values() if instance.ready]
    return min(candidates, default=None, key=lambda i: (i.group.measured_at, i.usage.measured_at))


def _processor_s(pid: int) -> float | None:
    """Of a process and those of its children that have ended; None when it is gone."""
    try:
        file = os.open(f"/proc/{pid}/stat", os.O_RDONLY)
    except OSError:
        return None
    try:
        raw = os.read(file, 1024)
    except OSError:
        return None
    finally:
        os.close(file)
    fields = raw[raw.rindex(b")") + 2 :].split()
    return sum(map(int, fields[_USER : _CHILDREN_SYSTEM + 1])) * _TICK_S
