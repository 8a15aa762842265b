"""What an instance is started from, what is told of it, and how it ends."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from msgspec import Raw

from mayfly_proto.records import VersionSpec


@dataclass(frozen=True, slots=True)
class Launch:
    instance: str
    spec: VersionSpec
    code: Path  # unpacked, read-only; a single .py lies in it under its package's filename


@dataclass(frozen=True, slots=True)
class Exit:
    """How an instance ended; `code` and `signal` are both None if the kernel's word on it was lost."""

    code: int | None
    signal: int | None
    out_of_memory: bool
    stderr_tail: str
    cpu_ms: float
    max_rss_kb: int


class Listener(Protocol):
    """What happens to one instance. All are called synchronously on the loop."""

    def on_ready(self, phases_ms: dict[str, float]) -> None: ...
    def on_init_error(self, message: str, traceback: str) -> None: ...
    def on_result(self, call: int, content_type: int, extra_headers: bytes | None, payload: bytes) -> None: ...
    def on_error(self, call: int, kind: str, message: str, traceback: str) -> None: ...
    def on_log(self, stream: str, invocation: str, lines: bytes) -> None: ...
    def on_ask(self, ask: int, call: int, verb: str, arguments: Raw, payload: bytes) -> None:
        """Raises what a broken frame raises."""

    def on_exit(self, exit: Exit) -> None:
        """Exactly once, after everything else."""


class Nobody:
    """Listens to a spare."""

    def on_ready(self, phases_ms: dict[str, float]) -> None: ...
    def on_init_error(self, message: str, traceback: str) -> None: ...
    def on_result(self, call: int, content_type: int, extra_headers: bytes | None, payload: bytes) -> None: ...
    def on_error(self, call: int, kind: str, message: str, traceback: str) -> None: ...
    def on_log(self, stream: str, invocation: str, lines: bytes) -> None: ...
    def on_ask(self, ask: int, call: int, verb: str, arguments: Raw, payload: bytes) -> None: ...
    def on_exit(self, exit: Exit) -> None: ...


@dataclass(frozen=True, slots=True)
class Status:
    """The kernel's word on an ended process: `code` is negative for a signal."""

    code: int
    cpu_ms: float
    max_rss_kb: int
