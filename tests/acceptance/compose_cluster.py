"""compose.yaml, brought up on an engine as docs/machines.md says, in a folder that has nothing of this repository's."""

import asyncio
import json
import re
import shutil
import subprocess
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any, Self, TypeVar

from mayfly_broker.roles import OPERATOR
from mayfly_chassis.bus import Bus
from mayfly_chassis.errors import BusError
from tests.acceptance.docker_engine import BASE, FETCHED, ROOT, Engine
from tests.acceptance.outside import Answer, http_call, manage, try_deploy

T = TypeVar("T")

IMAGE = "mayfly:local"
PROJECT = "mayfly"
START_TIMEOUT_S = 120
SCALING_SECTION = "Nodes that come and go, on one Docker engine"  # of docs/machines.md


@dataclass
class Cluster:
    engine: Engine
    folder: Path
    http: str = "http://127.0.0.1:8080"
    nats: str = "tls://127.0.0.1:4222"
    files: tuple[str, ...] = ("compose.yaml",)

    def __enter__(self) -> Self:
        self._build()
        shutil.copy(ROOT / "compose.yaml", self.folder)
        shutil.copytree(ROOT / "broker_config", self.folder / "broker_config")
        subprocess.run([ROOT / "deploy/make-secrets"], cwd=self.folder, check=True)
        self.compose("up", "-d")
        self.wait(lambda: not self.unwell(), self.describe)
        return self

    def __exit__(self, *_raised: object) -> None:
        """All that runs ends with the engine."""

    @property
    def token(self) -> str:
        return self.secret("token")

    def secret(self, name: str) -> str:
        return (self.folder / "secrets" / name).read_text().strip()

    def compose(self, *arguments: str) -> str:
        where = ("--project-name", PROJECT, "--project-directory", str(self.folder))
        files = [f"--file={self.folder / file}" for file in self.files]
        return self.engine.run("docker-compose", *where, *files, *arguments)

    def type(self, *lines: str) -> str:
        """What a reader types in this folder; the engine's tool here is the older one, which has a name of its own."""
        script = "\n".join(lines).replace("docker compose ", "docker-compose ")
        return self.engine.run("bash", "-eo", "pipefail", "-c", f'cd "$0"\n{script}', self.folder)

    def scale(self, **settings: object) -> None:
        """As docs/machines.md says, with these MAYFLY_SCALER_<SETTING>."""
        own = {f"MAYFLY_SCALER_{name.upper()}": value for name, value in settings.items()}
        lines = [f"{name}={value}\n" for name, value in {"COMPOSE_PROJECT_NAME": PROJECT, **own}.items()]
        (self.folder / ".env").write_text("".join(lines))
        shutil.copy(ROOT / "compose.scaling.yaml", self.folder)
        (self.folder / "deploy").mkdir()
        shutil.copy(ROOT / "deploy/make-scaling", self.folder / "deploy")
        begin, _end = typed_in_docs(SCALING_SECTION)
        self.type(*begin)
        self.files = ("compose.yaml", "compose.scaling.yaml")
        self.wait(lambda: not self.unwell(), self.describe)

    def containers(self) -> list[dict[str, Any]]:
        """As `docker inspect` says, of all that compose has made."""
        names = self.compose("ps", "-q").split()
        found: list[dict[str, Any]] = json.loads(self.engine.docker("inspect", *names))
        return found

    def container(self, service: str) -> str:
        return self.compose("ps", "-q", service).strip()

    def unwell(self) -> dict[str, str]:
        """Services whose container is not healthy, or has not ended as it should."""
        states = {row["Config"]["Labels"]["com.docker.compose.service"]: row["State"] for row in self.containers()}
        found = {name: state["Health"]["Status"] for name, state in states.items() if "Health" in state}
        found["bootstrap"] = "healthy" if states["bootstrap"]["ExitCode"] == 0 else "failed"
        return {name: status for name, status in found.items() if status != "healthy"}

    def describe(self) -> str:
        return "\n".join(self.compose("logs", "--tail", "20", name) for name in self.unwell())

    def wait(
        self, condition: Callable[[], T], describe: Callable[[], object] = str, timeout_s: float = START_TIMEOUT_S
    ) -> T:
        deadline = time.monotonic() + timeout_s
        while not (found := condition()):
            assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {describe()}"
            time.sleep(0.2)
        return found

    def on_nats(self, action: Callable[[Bus], Awaitable[T]]) -> T:
        """As operator; as often as it takes while a server is away, or a stream has no leader."""

        async def attempt() -> T:
            secret, ca_file = self.secret(OPERATOR), self.folder / "secrets/ca.crt"
            bus = await Bus.connect(
                self.nats, name="test", role=OPERATOR, user=OPERATOR, password=secret, ca_file=ca_file
            )
            try:
                return await action(bus)
            finally:
                await bus.close()

        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                return self.engine.inside(lambda: asyncio.run(attempt()))
            except BusError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)

    def deploy(self, name: str, source: str, **settings: object) -> None:
        """Again while it is told 503: a stream whose leader was killed may not have another yet."""

        def attempt() -> Answer | None:
            answer = self.engine.inside(lambda: try_deploy(self, name, source, **settings))
            return None if answer.code == 503 else answer

        answer = self.wait(attempt)
        assert answer is not None
        assert answer.code in (200, 201), answer.body

    def manage(self, method: str, path: str) -> Any:
        answer = self.engine.inside(lambda: manage(self, method, path))
        assert answer.code == 200, answer
        return json.loads(answer.body)

    def call(self, path: str, body: bytes = b"{}") -> Answer:
        """POST from outside of the containers."""
        return self.engine.inside(lambda: self.call_here(path, body))

    def call_here(self, path: str, body: bytes) -> Answer:
        """POST from a thread that is inside already."""
        return http_call(self.http, "POST", path, body, {"Content-Type": "application/json"})

    def _build(self) -> None:
        context = self.folder / "context"
        _copy_context(context)
        shutil.copytree(FETCHED / "wheels", context / "wheels")
        arguments = ("--build-arg", f"BASE={BASE}", "--build-arg", "PIP_NO_INDEX=1")
        self.engine.docker("build", "--network", "none", *arguments, "--tag", IMAGE, context)


@dataclass
class Load:
    """Calls one after the other from each of some threads, until it is left; what became of each is in `answers`."""

    cluster: Cluster
    path: str
    callers: int = 4
    answers: list[Answer] = field(default_factory=list)
    _over: Event = field(default_factory=Event)
    _running: list[Future[None]] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._running = [self.cluster.engine.begin_inside(self._call) for _ in range(self.callers)]
        return self

    def __exit__(self, *_raised: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._over.set()
        for future in self._running:
            future.result()

    def failed(self) -> list[Answer]:
        return [answer for answer in self.answers if answer.code not in (200, 202)]

    def wait_for_more(self, calls: int, timeout_s: float = 60) -> None:
        """Until so many more have been answered."""
        enough = len(self.answers) + calls
        self.cluster.wait(lambda: len(self.answers) >= enough, lambda: self.answers[-3:], timeout_s)

    def _call(self) -> None:
        while not self._over.is_set():
            number = len(self.answers)
            self.answers.append(self.cluster.call_here(self.path, b'{"number": %d}' % number))


def typed_in_docs(section: str) -> list[list[str]]:
    """The commands of each block of a section of docs/machines.md."""
    _, _, after = (ROOT / "docs/machines.md").read_text().partition(f"\n## {section}\n")
    text, _, _ = after.partition("\n## ")
    blocks = re.findall(r"(?:^    .*\n)+", text, re.MULTILINE)
    return [[line.strip() for line in block.splitlines()] for block in blocks]


def _copy_context(context: Path) -> None:
    """What .dockerignore lets through, without wheels of this machine's."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    for name in [line[1:] for line in lines if line.startswith("!") and line != "!wheels"]:
        target = context / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, target)
    shutil.copy(ROOT / "Dockerfile", context)
    shutil.copy(ROOT / ".dockerignore", context)
