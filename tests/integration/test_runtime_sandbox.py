"""What user code cannot do, tried by user code.

These tests need root, as a node does that runs other people's functions.
"""

import asyncio
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.integration.runtime_driver import Node

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="uids and mounts need root")

TRY = """
    import os

    def attempt(action):
        try:
            return action()
        except (OSError, ImportError) as error:
            return f"{type(error).__name__} {getattr(error, 'errno', '')}"
"""


async def tried(node: Node, source: str, event: object = None, **spec: Any) -> Any:
    files = {"function.py": source, "attempt.py": TRY}
    return (await (await node.start(files, **spec)).call(event)).json


async def test_uid_is_shared_between_functions(node: Node) -> None:
    """Each function has a uid of its own, no capability, and no way back to root."""
    source = """
        import os

        def handler(event, context):
            status = dict(line.split(":", 1) for line in open("/proc/self/status"))
            names = ("CapEff", "CapPrm", "CapInh", "CapAmb", "NoNewPrivs", "Seccomp", "Groups")
            return [os.getresuid(), {name: status[name].strip() for name in names}]
    """
    (uid, status), (other, _) = await tried(node, source, name="one"), await tried(node, source, name="two")
    assert len(set(uid)) == 1 and uid[0] >= 200_000 and uid != other
    assert {int(status[name], 16) for name in ("CapEff", "CapPrm", "CapInh", "CapAmb")} == {0}
    assert (status["NoNewPrivs"], status["Seccomp"], status["Groups"]) == ("1", "2", "")


async def test_files_of_machine_are_seen(node: Node, tmp_path: Path) -> None:
    """Nothing is there but the system's programs, the interpreter and the function's own code."""
    secret = tmp_path / "secret"
    secret.write_text("password")
    other = node.write({"function.py": "secret = 1"})
    source = """
        import os
        from attempt import attempt

        def handler(event, context):
            reads = [attempt(lambda: open(path).read()) for path in event]
            return [reads, sorted(os.listdir("/"))]
    """
    environ = f"/proc/{os.getpid()}/environ"
    paths = [str(secret), str(other / "function.py"), "/etc/shadow", str(Path.home() / ".profile"), environ]
    reads, top = await tried(node, source, paths)
    assert all(read.startswith(("FileNotFoundError", "PermissionError")) for read in reads), reads
    assert not {"work", "home", "run", "sys", "boot", "mnt"} & set(top)


async def test_writes_leave_tmp(node: Node) -> None:
    """Only /tmp can be written, and each instance has its own."""
    source = """
        import os, tempfile
        from attempt import attempt

        def write(path):
            with open(path, "w") as file:
                return file.write("x")

        def handler(event, context):
            with tempfile.NamedTemporaryFile() as file:
                inside = file.name
            return [[attempt(lambda: write(path)) for path in event], inside, os.listdir("/tmp"), os.getcwd()]
    """
    closed = ["/code/function.py", "/code/new", "/usr/new", "/etc/passwd", "/new", "/proc/sys/kernel/hostname"]
    for _ in range(2):
        writes, inside, tmp, cwd = await tried(node, source, [*closed, "/tmp/mine"])
        assert writes[-1] == 1 and all(isinstance(write, str) for write in writes[:-1]), writes
        assert (inside.startswith("/tmp/"), tmp, cwd) == (True, ["mine"], "/code")


async def test_platform_port_can_be_reached(node: Node) -> None:
    """User code cannot connect to NATS, nor to other ports that its manifest does not name; nor pass as a server."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        source = """
            import socket
            from attempt import attempt

            def connect(port, protocol=0):
                with socket.socket(socket.AF_INET, socket.SOCK_STREAM, protocol) as sock:
                    sock.connect(("127.0.0.1", port))

            def fast_open(port):
                with socket.socket() as sock:
                    sock.sendto(b"x", socket.MSG_FASTOPEN, ("127.0.0.1", port))

            def listen(port):
                with socket.create_server(("127.0.0.1", port)) as sock:
                    return sock.getsockname()[1] > 0

            def handler(event, context):
                return {
                    "platform": attempt(lambda: connect(4222)),
                    "other": attempt(lambda: connect(event)),
                    "usual": attempt(lambda: connect(443)),
                    "mptcp": attempt(lambda: connect(event, 262)),
                    "fast open": attempt(lambda: fast_open(event)),
                    "listen": attempt(lambda: listen(event + 1 if event < 65535 else event - 1)),
                    "listen anywhere": attempt(lambda: listen(0)),
                }
        """
        closed = await tried(node, source, port)
        opened = await tried(node, source, port, connect=[port, 4222])
    assert closed["platform"] == opened["platform"] == "PermissionError 13"
    assert (closed["other"], opened["other"]) == ("PermissionError 13", None)
    assert closed["usual"] == "ConnectionRefusedError 111"
    assert (closed["mptcp"], closed["fast open"]) == ("PermissionError 1", "PermissionError 1")
    assert (closed["listen"], closed["listen anywhere"]) == ("PermissionError 13", True)


async def test_siblings_can_be_killed(node: Node) -> None:
    """An instance sees no other process, can signal none and trace none: not even of its own function."""
    sibling = await node.start("import os\ndef handler(event, context): return os.getpid()")
    pid = (await sibling.call()).json
    source = """
        import ctypes, os, signal
        from attempt import attempt

        def trace(pid):
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.ptrace(16, pid, 0, 0) < 0:
                raise OSError(ctypes.get_errno(), "ptrace")

        def handler(pid, context):
            others = [name for name in os.listdir("/proc") if name.isdecimal() and int(name) != os.getpid()]
            attempt(lambda: os.kill(-1, 9))  # says nothing when nobody could be reached
            kills = [attempt(lambda: os.kill(pid, 9)), attempt(lambda: os.kill(1, 9))]
            return [*kills, attempt(lambda: trace(pid)), others]
    """
    *attempts, others = await tried(node, source, pid)
    assert all(isinstance(attempt, str) and "Error" in attempt for attempt in attempts), attempts
    assert others == []
    assert (await sibling.call()).json == pid


async def test_kernel_calls_are_open(node: Node) -> None:
    """Namespaces, mounts, keyrings, BPF, io_uring and odd socket families are closed; threads and processes work."""
    source = """
        import ctypes, os, platform, socket, threading
        from attempt import attempt

        def call(x86, arm, *args):
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.syscall(x86 if platform.machine() == "x86_64" else arm, *args) < 0:
                raise OSError(ctypes.get_errno(), "call")

        def handler(event, context):
            thread = threading.Thread(target=print)
            thread.start()
            thread.join()
            return [
                attempt(lambda: call(272, 97, 0x10000000)),
                attempt(lambda: call(165, 40, b"none", b"/tmp", b"tmpfs", 0, None)),
                attempt(lambda: call(250, 219, 0, 0)),
                attempt(lambda: call(321, 280, 0, None, 0)),
                attempt(lambda: call(425, 425, 1, None)),
                attempt(lambda: socket.socket(40, socket.SOCK_STREAM)),
                attempt(lambda: os.chroot("/tmp")),
            ]
    """
    assert set(await tried(node, source)) == {"PermissionError 1"}


async def test_forged_frames_break_worker(node: Node) -> None:
    """Garbage written to the worker's socket ends that instance, and harms nobody else."""
    neighbour = await node.start("def handler(event, context): return 1")
    instance = await node.start("import os\ndef handler(event, context): os.write(3, b'\\xff' * 100)")
    instance.begin()
    exit = await instance.exit()
    assert "broke the runtime's contract" in exit.stderr_tail
    assert (await neighbour.call()).json == 1


async def test_fork_bomb_is_not_ended(node: Node) -> None:
    """Processes that fork as fast as they can are ended with their instance."""
    source = """
        import os

        def handler(event, context):
            for _ in range(40):
                if os.fork() == 0:
                    while True:
                        if os.fork():
                            os._exit(0)
    """
    instance = await node.start(source, memory_mb=64)
    instance.begin()
    await asyncio.sleep(0.2)
    instance.process.kill()
    await instance.exit()
    assert (await (await node.start("def handler(event, context): return 1")).call()).json == 1
