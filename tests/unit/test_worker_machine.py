"""What a node may use, read from control groups of both layouts as they are written here."""

import os
from pathlib import Path

import psutil
import pytest

from mayfly_worker.cgroups import Place, own
from mayfly_worker.machine import Machine

MB = 2**20


def write(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text + "\n")
    return folder


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_container_of_the_unified_layout_is_what_counts(tmp_path: Path) -> None:
    """Half a core and 100 MB of which 40 are used: so many percent of that, whatever the machine does."""
    group = write(
        tmp_path,
        memory__max=str(100 * MB),
        memory__current=str(50 * MB),
        memory__stat=f"anon 1\ninactive_file {10 * MB}",
        cpu__max="50000 100000",
        cpu__stat="usage_usec 1000000\nuser_usec 1",
    )
    clock = Clock()
    machine = Machine({"": Place(group, group)}, clock)
    assert (machine.cores, machine.memory_mb) == (1, 100)
    clock.now = 2.0
    write(group, cpu__stat="usage_usec 1250000")
    assert machine.cpu_percent() == pytest.approx(25.0)
    clock.now = 3.0
    write(group, cpu__stat="usage_usec 1750000")
    assert machine.cpu_percent() == pytest.approx(100.0)
    clock.now = 3.05  # a look so soon would say 0 % or 200 %
    assert machine.cpu_percent() == pytest.approx(100.0)
    write(group, memory__current=str(109 * MB))
    memory = machine.memory()
    assert (memory.used_mb, memory.total_mb) == (99.0, 100.0)


def test_a_container_of_the_split_layout_is_what_counts(tmp_path: Path) -> None:
    """The same by the older files, each in the hierarchy of its controller."""
    memory = write(
        tmp_path / "memory" / "box",
        memory__limit_in_bytes=str(200 * MB),
        memory__usage_in_bytes=str(190 * MB),
        memory__stat=f"cache 1\ntotal_inactive_file {5 * MB}",
    )
    cpu = write(tmp_path / "cpu" / "box", cpu__cfs_quota_us="25000", cpu__cfs_period_us="100000")
    account = write(tmp_path / "cpuacct" / "box", cpuacct__usage=str(10**9))
    clock = Clock()
    machine = Machine(
        {
            "memory": Place(memory, tmp_path / "memory"),
            "cpu": Place(cpu, tmp_path / "cpu"),
            "cpuacct": Place(account, tmp_path / "cpuacct"),
        },
        clock,
    )
    assert machine.memory_mb == 200
    assert machine.memory().used_mb == 185.0
    clock.now = 1.0
    write(account, cpuacct__usage=str(10**9 + 125_000_000))
    assert machine.cpu_percent() == pytest.approx(50.0)


def test_the_tightest_limit_on_the_way_up_counts(tmp_path: Path) -> None:
    """A pod's own limit may be that of the group above its container."""
    write(tmp_path / "pod", memory__max=str(64 * MB), memory__current=str(64 * MB), memory__stat="inactive_file 0")
    inner = write(tmp_path / "pod" / "box", memory__max="max", memory__current="1", memory__stat="inactive_file 0")
    machine = Machine({"": Place(inner, tmp_path)})
    assert machine.memory_mb == 64
    assert machine.memory().used_mb == 64.0


@pytest.mark.parametrize("text", ["max", str(2**62)])
def test_without_a_limit_the_machine_counts(tmp_path: Path, text: str) -> None:
    """No limit, and one above what the machine has, are the same."""
    group = write(tmp_path, memory__max=text, cpu__max="max 100000")
    machine = Machine({"": Place(group, group)})
    assert machine.memory_mb == psutil.virtual_memory().total >> 20
    assert machine.cores == len(os.sched_getaffinity(0))
    memory = machine.memory()
    assert 0 < memory.used_mb < memory.total_mb


def test_the_machines_own_use_is_seen(tmp_path: Path) -> None:
    """With no groups at all: a core that is kept busy shows."""
    machine = Machine({})
    begun = os.times()
    while os.times().user - begun.user < 0.3:
        pass
    assert machine.cpu_percent() > 0.5 * 100 / machine.cores * 0.5


def test_own_groups_are_found_where_they_are_mounted() -> None:
    """On whatever machine this runs: each is a folder below its hierarchy's top."""
    for place in own().values():
        assert place.path.is_dir()
        assert place.path.is_relative_to(place.top)
