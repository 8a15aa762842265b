"""Later starts of a version whose import is heavy: forked from a process that has done it."""

import asyncio
import os
import signal
import uuid
from pathlib import Path

import pytest

from tests.conftest import Eventually
from tests.integration.runtime_driver import Instance, Node

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="templates need mounts, and those root")

HEAVY = """
import os, random, tempfile, time
time.sleep(0.05)
IMPORTED = time.monotonic_ns()
"""


async def siblings(node: Node, eventually: Eventually, source: str, **spec: int) -> tuple[Instance, Instance]:
    """Two instances that are forked from the template of a function with ``source``."""
    code = node.write({"function.py": HEAVY + source})
    await node.start(code, **spec)
    await eventually(lambda: node.logged("template.ready"))
    first, second = await node.start(code, **spec), await node.start(code, **spec)
    return first, second


async def test_heavy_import_is_paid_twice(node: Node, eventually: Eventually) -> None:
    """The import happened once for all later instances, which are processes of their own."""
    first, second = await siblings(node, eventually, "def handler(event, context): return [IMPORTED, os.getpid()]")
    (imported, pid), (also, other) = (await first.call()).json, (await second.call()).json
    assert imported == also and pid != other
    assert (await first.ready())["import"] == 0


async def test_light_import_keeps_template(node: Node) -> None:
    """A function that imports in no time has none: spares are as fast, and cost nothing each."""
    code = node.write({"function.py": "def handler(event, context): pass"})
    for _ in range(2):
        instance = await node.start(code)
        assert (await instance.ready())["import"] < 25
    await asyncio.sleep(0.2)  # as long as a template would have to be ordered; nothing is waited for
    assert not node.logged("template.ready")


async def test_siblings_share_what_is_private(node: Node, eventually: Eventually) -> None:
    """Instances of one template have /tmp, environment, randomness and file descriptors of their own."""
    source = """
def handler(event, context):
    before = os.listdir("/tmp")
    with open("/tmp/mine", "w") as file:
        file.write("x")
    name = tempfile.NamedTemporaryFile(delete=False).name
    fds = [int(fd) for fd in os.listdir("/proc/self/fd")]
    return before, random.random(), name, os.environ["MAYFLY_INSTANCE"], sorted(fds)[:4], len(fds)
"""
    first, second = await siblings(node, eventually, source)
    mine, theirs = (await first.call()).json, (await second.call()).json
    assert mine[0] == theirs[0] == []
    assert all(mine[index] != theirs[index] for index in (1, 2, 3))
    assert mine[4:] == theirs[4:] == [[0, 1, 2, 3], 5]


async def test_template_keeps_its_privileges(node: Node, eventually: Eventually) -> None:
    """Neither a template's import nor its instances can mount, make namespaces or act as another user."""
    source = """
import ctypes, platform

def attempts():
    libc = ctypes.CDLL(None, use_errno=True)
    column = 0 if platform.machine() == "x86_64" else 1
    calls = {
        "user namespace": ((272, 97)[column], 0x10000000),
        "pid namespace": ((272, 97)[column], 0x20000000),
        "mount": ((165, 40)[column], b"none", b"/tmp", b"tmpfs", 0, None),
        "open_tree": (428, -100, b"/", 1),
        "setuid": ((105, 146)[column], 0),
        "chroot": ((161, 51)[column], b"/tmp"),
    }
    return [name for name, call in calls.items() if libc.syscall(*call) >= 0]

def capabilities():
    return [line.split()[1] for line in open("/proc/self/status") if line.startswith(("CapEff", "CapPrm"))]

AT_IMPORT = attempts()

def handler(event, context):
    libc = ctypes.CDLL(None)
    return AT_IMPORT, attempts(), libc.unshare(0x20000), capabilities()
"""
    first, _ = await siblings(node, eventually, source)
    at_import, at_call, unshare, capabilities = (await first.call()).json
    assert (at_import, at_call, unshare) == ([], [], -1)
    assert {int(capability, 16) for capability in capabilities} == {0}


async def test_limits_end_with_template(node: Node, eventually: Eventually) -> None:
    """Memory is limited for each instance, and what one leaves behind is ended."""
    marker = uuid.uuid4().hex
    source = """
import subprocess

def handler(event, context):
    if isinstance(event, int):
        return len([bytearray(1 << 20) for _ in range(event)])
    subprocess.Popen(["/bin/sh", "-c", f"sleep 600 # {event}"], start_new_session=True)
"""
    first, second = await siblings(node, eventually, source, memory_mb=64)
    await second.call(marker)
    first.begin(400)
    exit = await first.exit()
    assert (exit.signal, exit.out_of_memory) == (signal.SIGKILL, True)
    second.process.kill()
    await second.exit()
    await eventually(lambda: not _alive(marker))


async def test_many_siblings_exhaust_template(node: Node, eventually: Eventually) -> None:
    """A template carries however many instances of a small function: what each fork costs it does not kill them all."""
    code = node.write({"function.py": HEAVY + "def handler(event, context): return 1"})
    await node.start(code, memory_mb=32)
    await eventually(lambda: node.logged("template.ready"))
    instances = [await node.start(code, memory_mb=32) for _ in range(50)]
    assert [(await instance.call()).json for instance in instances] == [1] * len(instances)
    assert not node.logged("template.died")


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("import threading; threading.Thread(target=time.sleep, args=(60,), daemon=True).start()", "2 threads"),
        ("import socket; s = socket.socket()", "open socket"),
        ("import asyncio; loop = asyncio.new_event_loop()", "open anon_inode"),
        ("import subprocess; p = subprocess.Popen(['/bin/sleep', '60'])", "1 child processes"),
        ("import mmap; m = mmap.mmap(-1, 4096)", "shared memory"),
        ("f = open('/tmp/state', 'w')", "open file /tmp/state"),
    ],
)
async def test_unsafe_import_is_forked(node: Node, eventually: Eventually, statement: str, reason: str) -> None:
    """An import whose effects do not survive a fork turns templates off for that version, and says why."""
    code = node.write({"function.py": HEAVY + statement + "\ndef handler(event, context): return IMPORTED"})
    first = await node.start(code)
    await eventually(lambda: node.logged("template.unsuitable"))
    assert reason in node.logged("template.unsuitable")[0]
    second = await node.start(code)
    assert (await first.call()).json != (await second.call()).json


async def test_dead_template_stops_starts(node: Node, eventually: Eventually) -> None:
    """When a template is killed its instances end with it, and the version starts the plain way."""
    code = node.write({"function.py": HEAVY + "def handler(event, context): return 1"})
    await node.start(code)
    await eventually(lambda: node.logged("template.ready"))
    instance = await node.start(code)
    await eventually(lambda: instance.process.pid)  # its own word that it is ready may come before its parent's
    os.kill(_parent_of(instance.process.pid), signal.SIGKILL)
    await instance.exit()
    await eventually(lambda: node.logged("template.died"))
    assert (await (await node.start(code)).call()).json == 1


async def test_output_of_import_is_repeated(node: Node, eventually: Eventually) -> None:
    """What an import prints is printed by the instance that imported; a template's is nobody's."""
    first, second = await siblings(node, eventually, "print('importing')\ndef handler(event, context): print('call')")
    await first.call()
    await second.call()
    assert first.logs == second.logs == [("stdout", "inv-1", "call")]


def _parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def _alive(marker: str) -> bool:
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdecimal() and marker.encode() in (folder / "cmdline").read_bytes():
                return True
        except OSError:
            continue
    return False
