"""How an instance comes to be, and what it tells when it does not."""

import json
import os
import signal
from pathlib import Path

import pytest

from tests.conftest import Eventually
from tests.integration.runtime_driver import Node, running_node

HELLO = "def handler(event, context): return 'hello'"


async def test_phases_are_not_told(node: Node) -> None:
    """A start is reported with the time of each phase."""
    phases = await (await node.start(HELLO)).ready()
    assert set(phases) == {"fork", "sandbox", "import", "total"}
    assert 0 < phases["import"] < phases["total"] < 5000


@pytest.mark.parametrize(
    ("source", "handler", "message", "traced"),
    [
        ("import nowhere", "function:handler", "ModuleNotFoundError: No module named 'nowhere'", True),
        ("1 / 0", "function:handler", "ZeroDivisionError: division by zero", True),
        ("def broken(:", "function:handler", "SyntaxError", True),
        ("import sys; sys.exit('no')", "function:handler", "SystemExit: no", True),
        (
            "",
            "function:handler",
            "module 'function' has no 'handler', which the handler 'function:handler' names",
            False,
        ),
        ("handler = 5", "function:handler", "handler 'function:handler' is a int, not a function", False),
        ("", "other:handler", "ModuleNotFoundError: No module named 'other'", False),
    ],
)
async def test_failed_import_looks_like_crash(
    node: Node, source: str, handler: str, message: str, traced: bool
) -> None:
    """An import that fails is told with its sentence and the user's frames, and the process ends."""
    instance = node.launch(source, handler=handler)
    told, traceback = await instance.failure()
    assert message in told
    assert ("function.py" in traceback) is traced and "mayfly_runtime" not in traceback
    assert (await instance.exit()).code == 1
    assert instance.events[-2:] == ["init_error", "exit"]


async def test_import_output_is_lost_with_failure(node: Node) -> None:
    """What a module printed before its import failed is in the logs, and in the tail of stderr."""
    instance = node.launch("import sys\nprint('connecting', end='')\nprint('no route', file=sys.stderr)\n1 / 0")
    exit = await instance.exit()
    assert sorted(instance.logs) == [("stderr", "", "no route"), ("stdout", "", "connecting")]
    assert exit.stderr_tail == "no route\n"


async def test_missing_isolation_is_weakened(node: Node) -> None:
    """A level that this node cannot give is refused by name."""
    instance = node.launch(HELLO, isolation="container")
    message, _ = await instance.failure()
    assert "cannot give isolation 'container'" in message
    await instance.exit()


async def test_environment_of_worker_leaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """User code finds the manifest's environment, and nothing of the worker's."""
    monkeypatch.setenv("MAYFLY_NATS_PASSWORD_FILE", "/secret/path")
    source = """
        import os, subprocess

        def handler(event, context):
            shell = subprocess.run(["/usr/bin/env"], capture_output=True, text=True, check=True).stdout
            parents = [open(f"/proc/{pid}/environ").read() for pid in os.listdir("/proc") if pid.isdecimal()
                       and os.access(f"/proc/{pid}/environ", os.R_OK)]
            return [dict(os.environ), shell, parents]
    """
    async with running_node(tmp_path) as node:
        environ, shell, parents = (await (await node.start(source, env={"GREETING": "ä", "LANG": "C"})).call()).json
    assert environ["GREETING"] == "ä" and environ["LANG"] == "C" and environ["TMPDIR"] == environ["HOME"]
    assert "GREETING=ä" in shell
    assert "/secret/path" not in json.dumps([environ, shell, parents])
    assert set(environ) <= {
        "GREETING", "LANG", "HOME", "TMPDIR", "USER", "PATH", "MAYFLY_FUNCTION", "MAYFLY_VERSION", "MAYFLY_INSTANCE",
        "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS",
    }  # fmt: skip


async def test_file_descriptors_leak(node: Node) -> None:
    """A fresh instance has stdin, stdout, stderr and its socket, and its children do not have the socket."""
    source = """
        import os, subprocess, sys

        def handler(event, context):
            own = sorted(int(fd) for fd in os.listdir("/proc/self/fd"))
            child = subprocess.run(["/bin/ls", "/proc/self/fd"], capture_output=True, text=True, close_fds=False)
            return [own, child.stdout.split(), sys.stdin.read()]
    """
    own, child, stdin = (await (await node.start(source)).call()).json
    assert own[:4] == [0, 1, 2, 3] and len(own) == 5, "the fifth is the listing itself"
    assert child == ["0", "1", "2", "3"] and stdin == "", "the fourth is the listing itself"


async def test_burst_is_served_by_spares_alone(node: Node) -> None:
    """More starts at once than there are spares all become ready, each a process of its own."""
    instances = [node.launch("import os\ndef handler(event, context): return os.getpid()") for _ in range(12)]
    for instance in instances:
        await instance.ready()
    assert len({(await instance.call()).json for instance in instances}) == 12


async def test_zygote_death_is_final(node: Node, eventually: Eventually) -> None:
    """When the zygote is killed its instances end, and later launches are served by a new one."""
    instance = await node.start(HELLO)
    os.kill(_parent_of(instance.process.pid), signal.SIGKILL)
    assert (await instance.exit()).code is None
    assert (await (await node.start(HELLO)).call()).payload == b"hello"


async def test_stop_before_ready_leaves_instance(node: Node) -> None:
    """An instance that is killed in its first moment ends all the same."""
    instances = [node.launch("import time; time.sleep(60)") for _ in range(6)]
    for instance in instances:
        instance.process.kill()
    assert {(await instance.exit()).signal for instance in instances} == {signal.SIGKILL}


async def test_calls_of_interpreter_children_fail(node: Node) -> None:
    """`sys.executable` starts a Python that works, also where the interpreter lies in somebody's closed home."""
    source = """
        import subprocess, sys

        def handler(event, context):
            import xmlrpc.client  # not loaded ahead
            command = [sys.executable, "-c", "import json; print(1)"]
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    """
    assert (await (await node.start(source)).call()).payload == b"1\n"


async def test_idle_instance_costs_megabytes(node: Node) -> None:
    """An idle trivial instance has under 6 MB of its own."""
    instance = await node.start(HELLO)
    await instance.call()
    assert 0 < instance.process.resident_mb() < 6


def _parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
