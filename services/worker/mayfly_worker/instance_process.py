"""One instance process as the worker sees it: its socket, its output, its end."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

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
    def on_exit(self, exit: Exit) -> None:
        """Exactly once, after everything else."""


class Process:
    """Guard of one instance process. Every method may be called at any time, also after its end."""

    def __init__(self, launch: Launch, listener: Listener) -> None:
        self.launch = launch
        self.pid = 0  # in the worker's own pid namespace; 0 until the fork is reported
        self._listener = listener

    def send(
        self,
        call: int,
        invocation: str,
        budget_ms: int,
        cold: bool,
        attempt: int,
        headers: bytes | None,
        payload: bytes,
    ) -> None:
        raise NotImplementedError

    def stop(self) -> None:
        """Politely: close the socket; the process ends by itself, and is killed after 2 s if it does not."""
        raise NotImplementedError

    def kill(self) -> None:
        """Now, with everything it started."""
        raise NotImplementedError

    def resident_mb(self) -> float:
        raise NotImplementedError
