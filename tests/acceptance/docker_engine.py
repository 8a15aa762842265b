"""A Docker engine for one test, with network, processes and mounts of its own; it ends with the process that began it.

This machine's network stays as it is: no bridge, no rules. Containers reach each other and nothing else, and who wants
to talk to a published port has to be `inside`. ``.ci/engine`` fetches what is needed;
``python -m tests.acceptance.docker_engine`` tells by its exit status whether an engine can be had here.
"""

import contextlib
import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Self, TypeVar

import psutil

T = TypeVar("T")

ROOT = Path(__file__).parents[2]
FETCHED = ROOT / ".tools/compose"
COMMANDS = ("docker", "dockerd", "docker-compose", "unshare", "nsenter", "setpriv", "ip")
BASE = "mayfly-base"  # the image that is there from the start
START_TIMEOUT_S = 30
COMMAND_TIMEOUT_S = 240

_CLONE_NEWNET = 0x40000000
_THREADS = 24

# It must not find a containerd of this machine, which would start containers outside; and has no network but loopback.
_INNER = """
mount -t tmpfs tmpfs /run
ip link set lo up
echo '{}' > "$0/daemon.json"
exec nice -n 5 dockerd --config-file "$0/daemon.json" --data-root "$0/data" --exec-root "$0/exec" \\
    --host "unix://$0/socket" --pidfile "$0/pid" --cgroup-parent "/$1"
"""


class NoEngine(Exception):
    """There can be no Docker engine here; the message says why."""


class Engine:
    """Started by ``with``, which raises `NoEngine`."""

    def __init__(self) -> None:
        self._folder = Path()
        self._process: subprocess.Popen[bytes] | None = None
        self._inside = ThreadPoolExecutor(_THREADS, "inside", self._join_network)

    def __enter__(self) -> Self:
        if (missing := why_not()) is not None:
            raise NoEngine(missing)
        self._folder = Path(tempfile.mkdtemp(prefix="mayfly-engine-"))  # short: sockets' paths are limited
        try:
            self._start()
            self._try()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_raised: object) -> None:
        self._inside.shutdown(cancel_futures=True)
        assert self._folder != Path(), "it has not been entered"
        if self._process is not None:
            self._end(self._process)
        for place in (self._folder.name, f"*/{self._folder.name}"):  # by version of the kernel's control groups
            for group in Path("/sys/fs/cgroup").glob(place):
                for folder in sorted(group.glob("**/"), key=lambda path: -len(path.parts)):
                    with contextlib.suppress(OSError):
                        folder.rmdir()
        shutil.rmtree(self._folder)

    @property
    def environ(self) -> dict[str, str]:
        own = {
            "PATH": _path(),
            "DOCKER_HOST": f"unix://{self._folder}/socket",
            "DOCKER_CONFIG": str(self._folder / "config"),
            "DOCKER_BUILDKIT": "0",
        }
        return {**os.environ, **own}

    def docker(self, *arguments: str | Path) -> str:
        return self.run("docker", *arguments)

    def run(self, *command: str | Path) -> str:
        """What it printed; its errors are in the assertion if it fails."""
        done = subprocess.run(command, env=self.environ, capture_output=True, timeout=COMMAND_TIMEOUT_S)
        said = done.stderr.decode(errors="replace")
        assert done.returncode == 0, f"{command}: {done.returncode}: {said}\n{done.stdout.decode()}"
        return done.stdout.decode(errors="replace")

    def inside(self, action: Callable[[], T]) -> T:
        """Do it in a thread whose network is the containers'."""
        return self.begin_inside(action).result()

    def begin_inside(self, action: Callable[[], T]) -> "Future[T]":
        return self._inside.submit(action)

    def kill(self, container: str) -> None:
        """kill -9 of its first process, as if it had crashed: `docker kill` would keep it from being started again."""
        self.kill_process(self.pid(container))

    def pid(self, container: str) -> str:
        """Of its first process, in the engine's own table of them."""
        return self.docker("inspect", "--format", "{{.State.Pid}}", container).strip()

    def kill_process(self, pid: str) -> None:
        self.run("nsenter", f"--pid={self._namespace('pid_for_children')}", "kill", "-9", pid)

    def commands(self) -> list[str]:
        """The command lines of all processes that the engine has begun, as anybody on this machine sees them."""
        assert self._process is not None
        found = []
        for process in psutil.Process(self._process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):  # gone, or only its exit status is left
                found.append(" ".join(process.cmdline()))
        return found

    def _start(self) -> None:
        command = ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "--mount", "--pid", "--fork", "--kill-child"]
        command += ["--mount-proc", "sh", "-ec", _INNER, str(self._folder), self._folder.name]
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(command, env=self.environ, stdout=log, stderr=log)
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise NoEngine((self._folder / "log").read_text(errors="replace").strip()[-500:])
            time.sleep(0.1)

    def _try(self) -> None:
        """An engine that starts but cannot run a container is none."""
        try:
            with (FETCHED / "base.tar").open("rb") as base:
                command = ["docker", "import", "-", BASE]
                subprocess.run(command, stdin=base, env=self.environ, check=True, capture_output=True)
            self.docker("run", "--rm", BASE, "true")
        except (AssertionError, subprocess.CalledProcessError) as error:
            raise NoEngine(f"it runs no container: {error}") from error

    def _answers(self) -> bool:
        command = ["docker", "version", "--format", "{{.Server.Version}}"]
        return subprocess.run(command, env=self.environ, capture_output=True, timeout=START_TIMEOUT_S).returncode == 0

    def _end(self, process: "subprocess.Popen[bytes]") -> None:
        """The first of its processes takes all others along, and the kernel lets it go last."""
        for first in psutil.Process(process.pid).children() or [process]:
            first.kill()
        process.wait()

    def _namespace(self, kind: str) -> str:
        assert self._process is not None
        return f"/proc/{self._process.pid}/ns/{kind}"

    def _join_network(self) -> None:
        with open(self._namespace("net")) as namespace:
            if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")


class Starts:
    """Containers with a label that an engine starts from now on, by their names. The engine itself forgets soon."""

    def __init__(self, engine: Engine, label: str) -> None:
        which = ["--filter", "event=start", "--filter", f"label={label}", "--format", "{{.Actor.Attributes.name}}"]
        command = ["docker", "events", *which, "--until", str(int(time.time()) + COMMAND_TIMEOUT_S)]
        self._process = subprocess.Popen(command, env=engine.environ, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self._lines = self._process.stdout

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_raised: object) -> None:
        self._process.kill()
        self._process.wait()
        self._lines.close()

    def next(self) -> str:
        """Waits for one; empty when there is none for minutes."""
        return self._lines.readline().strip()

    def rest(self) -> list[str]:
        """Until now; there are no more afterwards."""
        self._process.terminate()
        return self._lines.read().split()


def why_not() -> str | None:
    """What is missing, as far as one can know without trying."""
    if os.geteuid() != 0:
        return "it needs root"
    if missing := [command for command in COMMANDS if shutil.which(command, path=_path()) is None]:
        return f"not installed: {', '.join(missing)} (.ci/engine installs them)"
    if missing := [name for name in ("base.tar", "wheels") if not (FETCHED / name).exists()]:
        return f"not there: {', '.join(missing)} (.ci/engine fetches them)"
    return None


def _path() -> str:
    return f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


def main() -> None:
    try:
        with Engine() as engine:
            print(f"Docker engine {engine.docker('version', '--format', '{{.Server.Version}}').strip()} starts here")
    except NoEngine as error:
        sys.exit(f"no Docker engine can be had here: {error}")


if __name__ == "__main__":
    main()
