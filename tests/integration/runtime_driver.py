"""What the tests of the Python runtime share: functions from a few lines of source, and what happened to each."""

import asyncio
import contextlib
import itertools
import json
import textwrap
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from msgspec import Raw
from structlog.testing import LogCapture

from mayfly_proto.records import Package, VersionSpec
from mayfly_worker.runtime import Exit, Launch, Process, PythonRuntime

PLATFORM_PORT = 4222
_WITHIN_S = 10.0


@dataclass(frozen=True)
class Answer:
    """A result, or an error when `kind` is set."""

    payload: bytes = b""
    content_type: int = -1
    extra_headers: bytes | None = None
    kind: str = ""
    message: str = ""
    traceback: str = ""

    @property
    def json(self) -> Any:
        assert not self.kind, f"{self.kind}: {self.message}\n{self.traceback}"
        return json.loads(self.payload)


class Instance:
    """A launched instance, and its listener."""

    process: Process

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Answer]] = {}
        self._ready: asyncio.Future[dict[str, float]] = loop.create_future()
        self._failed: asyncio.Future[tuple[str, str]] = loop.create_future()
        self._exit: asyncio.Future[Exit] = loop.create_future()
        self.logs: list[tuple[str, str, str]] = []  # stream, invocation, line
        self.events: list[str] = []

    def on_ready(self, phases_ms: dict[str, float]) -> None:
        self.events.append("ready")
        self._ready.set_result(phases_ms)

    def on_init_error(self, message: str, traceback: str) -> None:
        self.events.append("init_error")
        self._failed.set_result((message, traceback))

    def on_result(self, call: int, content_type: int, extra_headers: bytes | None, payload: bytes) -> None:
        self.events.append("result")
        self._answers.pop(call).set_result(Answer(payload, content_type, extra_headers))

    def on_error(self, call: int, kind: str, message: str, traceback: str) -> None:
        self.events.append("error")
        self._answers.pop(call).set_result(Answer(kind=kind, message=message, traceback=traceback))

    def on_log(self, stream: str, invocation: str, lines: bytes) -> None:
        assert lines.endswith(b"\n"), lines
        self.events.append("log")
        self.logs += [(stream, invocation, line) for line in lines.decode().splitlines()]

    def on_ask(self, ask: int, call: int, verb: str, arguments: Raw, payload: bytes) -> None:
        raise AssertionError(f"an ask for {verb} where there is no node")

    def on_exit(self, exit: Exit) -> None:
        self.events.append("exit")
        self._exit.set_result(exit)

    async def ready(self) -> dict[str, float]:
        async with asyncio.timeout(_WITHIN_S):
            await asyncio.wait((self._ready, self._failed, self._exit), return_when=asyncio.FIRST_COMPLETED)
        assert self._ready.done(), self._failed.result() if self._failed.done() else self._exit.result()
        return self._ready.result()

    async def failure(self) -> tuple[str, str]:
        async with asyncio.timeout(_WITHIN_S):
            return await self._failed

    async def exit(self) -> Exit:
        async with asyncio.timeout(_WITHIN_S):
            return await self._exit

    def begin(self, event: object = None, *, headers: bytes | None = None) -> asyncio.Future[Answer]:
        """Starts a call; ``event`` as raw bytes goes as it is. Its invocation is ``inv-<number>``."""
        number = next(self._numbers)
        payload = event if isinstance(event, bytes) else json.dumps(event).encode()
        self._answers[number] = asyncio.get_running_loop().create_future()
        self.process.send(number, f"inv-{number}", 3000, number == 1, 1, headers, payload)
        return self._answers[number]

    async def call(self, event: object = None, *, headers: bytes | None = None) -> Answer:
        async with asyncio.timeout(_WITHIN_S):
            return await self.begin(event, headers=headers)


class Node:
    """A runtime, and functions to start on it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._names = itertools.count(1)
        self._capture = LogCapture()
        self.runtime = PythonRuntime(
            platform_ports=frozenset({PLATFORM_PORT}),
            directory=directory / "node",
            log=structlog.wrap_logger(None, processors=[self._capture]),
        )

    def logged(self, event: str) -> list[str]:
        """The reasons given with each log record of that name."""
        return [entry.get("reason", "") for entry in self._capture.entries if entry["event"] == event]

    def write(self, files: dict[str, str]) -> Path:
        """A code folder as a worker unpacks it: readable, and root's."""
        folder = self._directory / f"code-{next(self._names)}"
        for name, text in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(textwrap.dedent(text))
        return folder

    def launch(self, source: str | dict[str, str] | Path, **spec: Any) -> Instance:
        """``source`` is the text of ``function.py``, several files, or a folder that is there already."""
        if isinstance(source, str):
            source = {"function.py": source}
        code = source if isinstance(source, Path) else self.write(source)
        fields = {
            "name": "hello",
            "version": 1,
            "runtime": "python",
            "handler": "function:handler",
            "created": "",
        } | spec
        package = Package(sha256="0", size=0, format="py", filename="function.py")
        instance = Instance()
        launch = Launch(f"i{next(self._names)}", VersionSpec(package=package, **fields), code)
        instance.process = self.runtime.launch(launch, instance)
        return instance

    async def start(self, source: str | dict[str, str] | Path, **spec: Any) -> Instance:
        instance = self.launch(source, **spec)
        await instance.ready()
        return instance


@contextlib.asynccontextmanager
async def running_node(directory: Path) -> AsyncIterator[Node]:
    node = Node(directory)
    await node.runtime.start()
    try:
        yield node
    finally:
        await node.runtime.stop()
