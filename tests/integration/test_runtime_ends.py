"""How instances end: each says how, once, and leaves nothing behind."""

import asyncio
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import psutil
import pytest

from tests.conftest import Eventually
from tests.integration.runtime_driver import Node, running_node

DETACH = """
    import os, subprocess, sys, time

    def handler(event, context):
        if os.fork() == 0:  # a daemon: own session, its parent gone
            os.setsid()
            if os.fork() == 0:
                os.execv("/bin/sh", ["/bin/sh", "-c", f"sleep 600 # {event}"])
            os._exit(0)
        subprocess.Popen(["/bin/sh", "-c", f"sleep 600 # {event}"], start_new_session=True)
        if context.headers:
            time.sleep(600)
        return os.getpid()
"""


def alive(marker: str) -> list[int]:
    """The processes, of this whole machine, whose command line has ``marker`` in it."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                if marker.encode() in (folder / "cmdline").read_bytes():
                    found.append(int(folder.name))
            except OSError:
                continue
    return [pid for pid in found if pid != os.getpid()]


def states_until_gone(pid: int) -> set[str]:
    """The letters of /proc; to be called from a thread."""
    states = set()
    with suppress(OSError):
        while True:
            states.add(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0])
            time.sleep(0.002)  # one that takes a whole core would keep them from being stopped
    return states


async def test_polite_stop_kills(node: Node) -> None:
    """A stopped instance ends by itself, having run what was registered for its exit."""
    instance = await node.start("import atexit\natexit.register(print, 'bye')\ndef handler(event, context): pass")
    instance.process.stop()
    exit = await instance.exit()
    assert (exit.code, exit.signal) == (0, None)
    assert instance.logs == [("stdout", "", "bye")]


async def test_deaf_instance_survives_stop(node: Node, eventually: Eventually) -> None:
    """One that does not listen is killed after a moment."""
    instance = await node.start("import time\ndef handler(event, context): time.sleep(60)")
    instance.begin()
    instance.process.stop()
    assert (await instance.exit()).signal == signal.SIGKILL


async def test_exit_code_is_lost(node: Node) -> None:
    """A process that leaves in the middle of a call tells its code, its last words and what it used."""
    source = """
        import os, sys

        def handler(event, context):
            sum(range(3_000_000))
            print("last words", file=sys.stderr)
            os._exit(7)
    """
    instance = await node.start(source)
    instance.begin()
    exit = await instance.exit()
    assert (exit.code, exit.signal, exit.out_of_memory) == (7, None, False)
    assert exit.stderr_tail == "last words\n"
    assert exit.cpu_ms > 0 and exit.max_rss_kb > 1000
    assert instance.events[-1] == "exit" and instance.events.count("exit") == 1


async def test_segfault_leaves_no_trace(node: Node) -> None:
    """A crash in C code tells the signal, and the Python stack in the tail of stderr."""
    instance = await node.start("import ctypes\ndef handler(event, context): ctypes.string_at(0)")
    instance.begin()
    exit = await instance.exit()
    assert exit.signal == signal.SIGSEGV
    assert "Segmentation fault" in exit.stderr_tail and "in handler" in exit.stderr_tail


async def test_own_kill_is_ignored(node: Node) -> None:
    """A function may kill itself, and is seen to have."""
    instance = await node.start("import os\ndef handler(event, context): os.kill(os.getpid(), 9)")
    instance.begin()
    exit = await instance.exit()
    assert (exit.signal, exit.out_of_memory) == (signal.SIGKILL, False)


def memory_groups(pids: list[int]) -> list[Path]:
    """The control groups of these processes, as far as version 1 of them goes."""
    lines = [line for pid in pids for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()]
    return [Path("/sys/fs/cgroup/memory" + line.split(":")[2]) for line in lines if ":memory:" in line]


@pytest.mark.parametrize("how", ["kill", "stop", "crash"])
async def test_detached_processes_survive(node: Node, eventually: Eventually, how: str) -> None:
    """However an instance ends, what it started ends with it: daemons and sessions of their own too."""
    marker = uuid.uuid4().hex
    instance = await node.start(DETACH)
    await instance.call(marker)
    await eventually(lambda: len(alive(marker)) >= 2)
    if how == "kill":
        instance.process.kill()
    elif how == "stop":
        instance.process.stop()
    else:
        os.kill(instance.process.pid, signal.SIGSEGV)
    await instance.exit()
    await eventually(lambda: not alive(marker))


async def test_end_takes_a_neighbours_daemons(node: Node, eventually: Eventually) -> None:
    """What a function leaves running in the background lives on with its instance, and ends with no other."""
    marker, other = uuid.uuid4().hex, uuid.uuid4().hex
    first, second = await node.start(DETACH), await node.start(DETACH)
    await first.call(marker)
    await second.call(other)
    first.process.kill()
    await first.exit()
    await second.call(other)
    await eventually(lambda: len(alive(other)) >= 4)


async def test_memory_beyond_limit_is_given(node: Node) -> None:
    """An instance that takes more than its memory is ended, and the exit says why."""
    source = """
        def handler(event, context):
            return len([bytearray(1 << 20) for _ in range(event)])
    """
    instance = await node.start(source, memory_mb=64)
    assert (await instance.call(20)).json == 20
    instance.begin(400)
    exit = await instance.exit()
    assert (exit.signal, exit.out_of_memory) == (signal.SIGKILL, True)


async def test_child_escapes_memory_limit(node: Node) -> None:
    """The limit holds for everything that an instance starts, and for what it keeps in /tmp."""
    source = """
        import subprocess, sys

        def handler(event, context):
            code = "x = [bytearray(1 << 20) for _ in range(400)]"
            with open("/tmp/held", "wb") as file:
                file.write(bytes(30 << 20))
            return [subprocess.run([sys.executable, "-c", code]).returncode, context.memory_limit_in_mb]
    """
    instance = await node.start(source, memory_mb=64)
    call = instance.begin()
    done, _ = await asyncio.wait((call, asyncio.ensure_future(instance.exit())), return_when=asyncio.FIRST_COMPLETED)
    assert call not in done or call.result().json[0] != 0


@asynccontextmanager
async def worker_with_two(folder: Path, marker: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, list[int]]]:
    """A process that is a worker to an instance at rest and one that is busy, and their pids; killed at the end."""
    script = f"""
import asyncio, pathlib, sys, textwrap
sys.path.insert(0, {str(Path.cwd())!r})
from mayfly_proto import headers
from tests.integration.runtime_driver import running_node

async def main():
    async with running_node(pathlib.Path({str(folder)!r})) as node:
        instance = await node.start({DETACH!r})
        pid = (await instance.call({marker!r})).json
        busy = await node.start({DETACH!r})
        busy.begin({marker!r}, headers=headers.block({{"busy": "yes"}}))
        print(instance.process.pid, busy.process.pid, flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""
    worker = await asyncio.create_subprocess_exec(sys.executable, "-c", script, stdout=subprocess.PIPE)
    assert worker.stdout is not None
    pids = [int(pid) for pid in (await worker.stdout.readline()).split()]
    try:
        yield worker, pids
    finally:
        with suppress(ProcessLookupError):
            worker.kill()
        await worker.communicate()  # all that it started has its standard output


async def test_worker_killed_leaves_processes(tmp_path: Path, eventually: Eventually) -> None:
    """When the worker is killed with -9, nothing that it or its instances started lives on, busy or detached."""
    marker = uuid.uuid4().hex
    async with worker_with_two(tmp_path, marker) as (worker, pids):
        await eventually(lambda: len(alive(marker)) >= 5)  # the script itself has the marker too
        groups = memory_groups(pids)
        assert all(group.exists() for group in groups)
        worker.kill()
        await eventually(lambda: not alive(marker) and not any(Path(f"/proc/{pid}").exists() for pid in pids))
    async with running_node(tmp_path / "next"):
        assert not any(group.exists() for group in groups), "the next worker clears away what the last one left"


async def test_worker_killed_takes_all_cores(tmp_path: Path, eventually: Eventually) -> None:
    """Its instances do nothing more, and are taken apart only when those who answer for them have had a moment."""
    marker = uuid.uuid4().hex
    async with worker_with_two(tmp_path, marker) as (worker, pids):
        await eventually(lambda: len(alive(marker)) >= 5)  # the busy one is out of `vfork`, where it cannot be stopped
        watched = [asyncio.create_task(asyncio.to_thread(states_until_gone, pid)) for pid in pids]
        worker.kill()
        at_rest, busy = await asyncio.gather(*watched)
        assert "T" in at_rest
        assert "T" in busy


async def test_zygote_misses_end_of_worker(tmp_path: Path, eventually: Eventually) -> None:
    """One that hangs is ended all the same, and its instances with it."""
    async with worker_with_two(tmp_path, uuid.uuid4().hex) as (worker, pids):
        os.kill(psutil.Process(pids[0]).ppid(), signal.SIGSTOP)
        worker.kill()
        await eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))


async def test_stop_of_node_leaves_instances(tmp_path: Path, eventually: Eventually) -> None:
    """A node that stops ends its instances, and each says so."""
    marker = uuid.uuid4().hex
    async with running_node(tmp_path) as node:
        instance = await node.start(DETACH)
        await instance.call(marker)
    assert (await instance.exit()).code is None
    assert not alive(marker)
