"""What instances use: who is looked at, how often, and what the node says of it."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any, cast

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mayfly_worker import meter
from mayfly_worker.group import Instance
from mayfly_worker.meter import AT_ONCE, Meter
from mayfly_worker.pool import Pool
from tests.unit.worker_pool import ready, take


class Process:
    """What an instance's process says of its memory, and which process it is."""

    def __init__(self, pid: int = 0, private_mb: float = 0.0) -> None:
        self.pid = pid
        self._private_mb = private_mb
        self.asked = 0

    def private_mb(self) -> float:
        self.asked += 1
        return self._private_mb


def give(instance: Instance, process: Process) -> Process:
    instance.process = cast(Any, process)
    return process


@pytest.fixture
def spinning() -> Iterator[int]:
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    yield process.pid
    process.kill()
    process.wait()


def test_processor_time_is_that_of_the_process(spinning: int) -> None:
    """What it spent between two looks, by the time between them; the version shows the mean of its instances."""
    pool = Pool(1000, 8)
    ready(pool, "i1", "i2", now=9.0)
    busy = take(pool.groups["hello", 1])
    give(busy, Process(spinning))
    now = 10.0
    look = Meter(pool, lambda: now)
    look.look()
    process = psutil.Process(spinning)
    before = process.cpu_times().user
    while process.cpu_times().user < before + 0.2:
        pass
    now = 12.0
    look.look()
    assert 10.0 <= busy.usage.cpu_percent < 100.0
    assert busy.group.load().cpu_percent == pytest.approx(busy.usage.cpu_percent / 2, abs=0.1)


def test_only_those_that_ran_are_looked_at_and_each_once_a_second() -> None:
    """Idle ones cost nothing; what was idle shows 0 again; a call that began and ended in between is not missed."""
    pool = Pool(1000, 8)
    first, second = ready(pool, "i1", "i2", now=9.0)
    assert meter.who_ran(pool.instances.values(), 10.0) == [first, second], "once, to have something to compare with"
    for instance in (first, second):
        meter.note(instance, 0.1, 10.0)
    assert meter.who_ran(pool.instances.values(), 11.0) == []
    assert take(first.group) is second
    assert meter.who_ran(pool.instances.values(), 11.5) == [], "not twice within a second"
    second.group.release(second, 11.6)
    assert meter.who_ran(pool.instances.values(), 12.0) == [second]
    meter.note(second, 0.35, 12.0)
    assert second.usage.cpu_percent == pytest.approx(25.0)
    assert meter.who_ran(pool.instances.values(), 13.0) == []
    assert second.usage.cpu_percent == 0.0
    assert take(first.group) is second
    meter.note(second, 0.4, 14.0)
    second.group.release(second, 14.5)
    assert meter.who_ran(pool.instances.values(), 15.0) == [second], "it ran on after it was looked at"


@given(st.integers(0, 200), st.integers(1, 8))
def test_however_many_run_each_is_looked_at_in_turn(running: int, rounds: int) -> None:
    """At most so many at once, the longest ago first: after enough looks it was everyone's turn."""
    pool = Pool(10**6, 10**6)
    ready(pool, *(f"i{k}" for k in range(running)), now=-10.0)
    for _ in range(running):
        take(pool.groups["hello", 1])
    seen: set[str] = set()
    for number in range(rounds):
        looked_at = meter.who_ran(pool.instances.values(), 10 + number * 0.25)
        assert len(looked_at) <= AT_ONCE
        for instance in looked_at:
            meter.note(instance, 0.0, 10 + number * 0.25)
        seen |= {instance.id for instance in looked_at}
    assert len(seen) == min(running, AT_ONCE * rounds)


def test_memory_of_one_instance_a_second_versions_in_turn() -> None:
    """However often it looks; those of which nothing is known first; the mean moves with what is found."""
    pool = Pool(10_000, 100)
    a1, a2 = ready(pool, "a1", "a2", function="a")
    (b1,) = ready(pool, "b1", function="b")
    processes = [give(a1, Process(private_mb=10.0)), give(a2, Process(private_mb=20.0)), give(b1, Process())]
    now = 100.0
    look = Meter(pool, lambda: now)
    for _ in range(16):
        look.look()
        now += 0.25
    assert sum(process.asked for process in processes) == 4
    assert [process.asked for process in processes] == [1, 1, 2]
    assert a1.group.load().private_mb == 13.0
    assert b1.group.load().private_mb == 0.0, "nothing was found: nothing is said"


def test_a_process_that_is_gone_is_no_error() -> None:
    """It ends between two looks: its last figures stand until it is removed."""
    pool = Pool(1000, 8)
    (instance,) = ready(pool, "i1")
    give(instance, Process(pid=2**22 + 1))
    take(instance.group)
    look = Meter(pool, lambda: 10.0)
    look.look()
    assert instance.usage.spent_s is None
