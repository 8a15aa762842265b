"""Starts instances of Python functions: one zygote, restarted when it dies, and what each instance is given."""

import asyncio
import contextlib
import os
import shutil
import socket
from pathlib import Path
from typing import Any

import structlog

from mayfly_worker import sandbox
from mayfly_worker.instance_process import Exit, Launch, Listener, Process
from mayfly_worker.sandbox_groups import Group, Groups
from mayfly_worker.zygote import Zygote, ZygoteFailed

__all__ = ["Exit", "Launch", "Listener", "Process", "PythonRuntime"]

_RESTART_S = (0.0, 0.1, 0.5, 2.0, 5.0)
_STEADY_S = 30.0
_WATCH_S = 0.25


class PythonRuntime:
    def __init__(
        self, *, platform_ports: frozenset[int], directory: Path, log: structlog.typing.FilteringBoundLogger
    ) -> None:
        self.isolation: list[str] = []  # levels this node gives; known once started
        self.notes: list[str] = []  # what this kernel does not give, one sentence each
        self._platform_ports = platform_ports
        self._root = directory / "root"
        self._temporary = directory / "tmp"
        self._log = log
        self._groups: Groups | None = None
        self._zygote: Zygote | None = None
        self._waiting: list[Process] = []  # launched while there was no zygote
        self._processes: set[Process] = set()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Raises `ZygoteFailed`."""
        shutil.rmtree(self._temporary, ignore_errors=True)
        for folder in (self._root, self._temporary):
            folder.mkdir(parents=True, exist_ok=True)
        self._temporary.chmod(0o711)
        self._loop = asyncio.get_running_loop()
        self._groups = Groups.find()
        self._zygote = await Zygote.start(self._root)
        self._describe(self._zygote)
        self._tasks = [asyncio.create_task(self._supervise(self._zygote), name="runtime.zygote")]
        if self._groups is None:
            self._tasks.append(asyncio.create_task(self._watch_memory(), name="runtime.memory"))

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._zygote is not None:
            await self._zygote.stop()
        for process in list(self._processes):
            process.finish(None)
        if self._groups is not None:
            self._groups.close()

    def launch(self, launch: Launch, listener: Listener) -> Process:
        """Returns at once; `Listener.on_ready`, `on_init_error` or `on_exit` tells how it went."""
        process = Process(launch, listener, self._loop, self._ended)
        self._processes.add(process)
        if self._zygote is None:
            self._waiting.append(process)
        else:
            self._order(self._zygote, process)
        return process

    def _describe(self, zygote: Zygote) -> None:
        hello = zygote.hello
        self.notes = list(hello.notes)
        if self._groups is None:
            self.notes.append("no control groups: memory is limited per process and by polling")
        if not hello.uids:
            self.notes.append("cannot change uids: functions are told apart by Landlock alone")
        if hello.landlock < 4:
            self.notes.append(f"Landlock ABI {hello.landlock}: outgoing TCP ports are not limited")
        elif hello.landlock < 6:
            self.notes.append(f"Landlock ABI {hello.landlock}: instances of one function may signal each other")
        self.isolation = ["process"]
        if hello.private_root and hello.own_pids and self._groups is not None:
            self.isolation.append("sandbox")

    async def _supervise(self, zygote: Zygote) -> None:
        failures = 0
        while True:
            started = self._loop.time()
            await zygote.wait()
            failures = 0 if self._loop.time() - started > _STEADY_S else failures + 1
            self._zygote = None
            self._log.error("zygote.died", restarts=failures)
            zygote = await self._restart(failures)
            self._zygote = zygote
            waiting, self._waiting = self._waiting, []
            for process in waiting:
                self._order(zygote, process)

    async def _restart(self, failures: int) -> Zygote:
        while True:
            await asyncio.sleep(_RESTART_S[min(failures, len(_RESTART_S) - 1)])
            try:
                return await Zygote.start(self._root)
            except ZygoteFailed as error:
                failures += 1
                self._log.error("zygote.failed", error=str(error))

    def _order(self, zygote: Zygote, process: Process) -> None:
        spec = process.launch.spec
        if spec.isolation not in self.isolation:
            process.fail(f"this node cannot give isolation {spec.isolation!r}, only {', '.join(self.isolation)}")
            return
        with contextlib.ExitStack() as undo:
            try:
                fields, fds = self._prepare(zygote, process, undo)
            except OSError as error:
                process.fail(f"preparing the sandbox: {error.strerror or error}")
                return
            undo.pop_all()
        zygote.order(process, fields, fds)

    def _prepare(
        self, zygote: Zygote, process: Process, undo: contextlib.ExitStack
    ) -> tuple[dict[str, Any], list[int]]:
        """The order and its file descriptors; ``undo`` closes those if the next step fails."""
        launch, hello = process.launch, zygote.hello
        given: list[int] = []

        def give(fd: int) -> None:
            undo.callback(os.close, fd)
            given.append(fd)

        here, there = socket.socketpair()
        give(there.detach())
        stdout, there_out = os.pipe2(os.O_CLOEXEC)
        give(there_out)
        stderr, there_err = os.pipe2(os.O_CLOEXEC)
        give(there_err)
        process.connect(here, stdout, stderr)
        if hello.private_root:
            give(sandbox.detached_mount(launch.code))
        if self._groups is not None:
            process.group = self._groups.lease(launch.spec.memory_mb)
            give(process.group.open())
        uid = sandbox.uid_of(launch.spec.name) if hello.uids else 0
        code, tmp = ("/code", "/tmp") if hello.private_root else self._paths(launch, uid)  # noqa: S108  a mount of its own
        return self._fields(launch, uid, code, tmp, hello.private_root, process.group), given

    def _paths(self, launch: Launch, uid: int) -> tuple[str, str]:
        tmp = self._temporary / launch.instance
        tmp.mkdir(mode=0o700)
        if uid:
            os.chown(tmp, uid, uid)
        return str(launch.code), str(tmp)

    def _fields(
        self, launch: Launch, uid: int, code: str, tmp: str, private_root: bool, group: Group | None
    ) -> dict[str, Any]:
        spec = launch.spec
        own = {
            "HOME": tmp,
            "TMPDIR": tmp,
            "USER": "function",
            "MAYFLY_FUNCTION": spec.name,
            "MAYFLY_VERSION": str(spec.version),
            "MAYFLY_INSTANCE": launch.instance,
        }
        return {
            "function": {
                "name": spec.name,
                "version": str(spec.version),
                "memory_mb": spec.memory_mb,
                "payload": spec.payload,
            },
            "handler": spec.handler,
            "concurrency": spec.concurrency,
            "env": own | spec.env,
            "confinement": {
                "uid": uid,
                "memory_mb": spec.memory_mb,
                "limit_data": group is None,
                "private_root": private_root,
                "code": code,
                "tmp": tmp,
                "ports": sandbox.ports_of(spec.connect, self._platform_ports),
            },
        }

    def _ended(self, process: Process) -> None:
        self._processes.discard(process)
        if self._groups is not None and process.group is not None:
            self._groups.give_back(process.group)
            self._loop.call_later(0.05, self._fill)
        temporary = self._temporary / process.launch.instance
        if temporary.exists():
            self._loop.run_in_executor(None, lambda: shutil.rmtree(temporary, ignore_errors=True))

    def _fill(self) -> None:
        if self._groups is not None:
            self._groups.fill()

    async def _watch_memory(self) -> None:
        """Without control groups: what a process and its limits do not see, its children, is not seen here either."""
        while True:
            await asyncio.sleep(_WATCH_S)
            for process in list(self._processes):
                if process.resident_mb() > process.launch.spec.memory_mb:
                    process.end_over_limit()
