"""Starts instances of Python functions."""

from pathlib import Path

import structlog

from mayfly_worker.instance_process import Exit, Launch, Listener, Process

__all__ = ["Exit", "Launch", "Listener", "Process", "PythonRuntime"]


class PythonRuntime:
    def __init__(
        self, *, platform_ports: frozenset[int], directory: Path, log: structlog.typing.FilteringBoundLogger
    ) -> None:
        self.isolation: list[str] = []  # levels this node gives; known once started
        self.notes: list[str] = []  # what this kernel does not give, one sentence each

    async def start(self) -> None:
        raise NotImplementedError

    async def stop(self) -> None:
        raise NotImplementedError

    def launch(self, launch: Launch, listener: Listener) -> Process:
        """Returns at once; `Listener.on_ready`, `on_init_error` or `on_exit` tells how it went."""
        raise NotImplementedError
