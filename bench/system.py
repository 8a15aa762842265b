"""The system under test: a whole platform started by the real command, and what its processes cost."""

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class System:
    data: Path
    ready_s: float  # from the start of `mayfly up` to its `ready` line
    nats: str
    http: str
    user: str
    password: str
    token: str

    def services(self) -> dict[str, int]:
        """Service → pid, as platform.json has them now."""
        services = json.loads((self.data / "platform.json").read_text())["services"]
        return {service["name"]: service["pid"] for service in services}

    def deploy(self, name: str, source: str, **settings: object) -> None:
        self._api("POST", f"functions/{name}", {"source": source, "filename": f"{name}.py", "settings": settings})

    def instances(self) -> list[dict[str, Any]]:
        return self._api("GET", "instances")

    def _api(self, method: str, path: str, body: object = None) -> Any:
        request = urllib.request.Request(
            f"{self.http}/api/v1/{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as reply:
            return json.loads(reply.read())

    def cpu_s(self, *, instances: bool = True) -> dict[str, float]:
        """CPU seconds by process so far; `instances` is everything below the worker, and takes long when that is
        much."""
        used = {}
        for name, pid in self.services().items():
            process = psutil.Process(pid)
            used[name] = sum(process.cpu_times()[:2])
            if name == "worker" and instances:
                used["instances"] = sum(_cpu_s(child) for child in process.children(recursive=True))
        return used

    def resident_mb(self) -> dict[str, float]:
        return {name: psutil.Process(pid).memory_info().rss / 2**20 for name, pid in self.services().items()}


def _cpu_s(process: psutil.Process) -> float:
    try:
        return float(sum(process.cpu_times()[:2]))
    except psutil.NoSuchProcess:
        return 0.0


def proportional_mb(pid: int) -> float:
    """Proportional set size: private pages, and shared ones divided by who shares them."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")) / 1024


@contextmanager
def running(*flags: str) -> Iterator[System]:
    """`mayfly up` on free ports and a data directory of its own, stopped cleanly at the end."""
    with tempfile.TemporaryDirectory(prefix="mayfly-bench-") as directory:
        data = Path(directory) / "data"
        command = [str(Path(sys.executable).with_name("mayfly")), "up", "--data", str(data)]
        started = time.perf_counter()
        process = subprocess.Popen(
            [*command, "--port", "0", "--nats-port", "0", *flags], stdout=subprocess.PIPE, text=True
        )
        try:
            assert process.stdout is not None
            while not process.stdout.readline().startswith("ready"):
                if process.poll() is not None:
                    raise RuntimeError(f"`mayfly up` ended with {process.returncode}")
            ready_s = time.perf_counter() - started
            facts = json.loads((data / "platform.json").read_text())
            known = {key: facts[key] for key in ("nats", "http", "user", "password", "token")}
            yield System(data=data, ready_s=ready_s, **known)
        finally:
            process.terminate()
            process.wait(timeout=60)
