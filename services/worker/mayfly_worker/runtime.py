"""Starts instances of Python functions.

One zygote, restarted when it dies, forks processes; a few spares are forked ahead, so that a start is only the
sandbox and the import. What an instance is given besides, its files, mounts and control group, is put together here.
"""

import asyncio
import os
import resource
import shutil
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import structlog

from mayfly_worker import sandbox
from mayfly_worker.instance_listener import Exit, Launch, Listener
from mayfly_worker.instance_process import Process
from mayfly_worker.sandbox_groups import Groups
from mayfly_worker.zygote import Hello, Zygote, ZygoteFailed
from mayfly_worker.zygote_forks import ForkServer
from mayfly_worker.zygote_templates import Template, Templates

__all__ = ["Exit", "Launch", "Listener", "Process", "PythonRuntime", "ZygoteFailed"]

_CODE, _TMP = "/code", "/tmp"  # noqa: S108  mounts of its own, in a private root
_SPARES = 4
_REFILL_S = 0.03  # after the last start: forking ahead must not slow a burst down
_RESTART_S = (0.0, 0.1, 0.5, 2.0, 5.0)
_STEADY_S = 30.0
_WATCH_S = 0.25
_TEMPLATE_S = 0.1  # after the start that showed the need: its first call goes first


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
        self._spares: list[Process] = []
        self._templates = Templates(self._build_template, log)
        self._waiting: list[Process] = []  # launched while there was no zygote
        self._processes: set[Process] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._refill: asyncio.TimerHandle | None = None
        self._stopping = False

    async def start(self) -> None:
        """Raises `ZygoteFailed`."""
        self._loop = asyncio.get_running_loop()
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # an instance takes four
        shutil.rmtree(self._temporary, ignore_errors=True)
        for folder in (self._root, self._temporary):
            folder.mkdir(parents=True, exist_ok=True)
        self._temporary.chmod(0o711)
        self._groups = Groups.find()
        zygote = await self._start_zygote()
        self._describe(zygote)
        self._tasks = [asyncio.create_task(self._supervise(zygote), name="runtime.zygote")]
        if self._groups is None:
            self._tasks.append(asyncio.create_task(self._watch_memory(), name="runtime.memory"))

    async def stop(self) -> None:
        self._stopping = True
        if self._refill is not None:
            self._refill.cancel()
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
        zygote = self._living_zygote()
        possible = launch.spec.isolation in self.isolation
        template = self._templates.find(launch) if possible and zygote else None
        spare = possible and zygote and not template and self._spares
        process = self._spares.pop(0) if spare else self._new()
        process.assign(launch, listener)
        if not possible:
            given = ", ".join(self.isolation)
            refusal = f"this node cannot give isolation {launch.spec.isolation!r}, only {given}"
            self._loop.call_soon(process.fail, refusal)
        elif zygote is None:
            self._waiting.append(process)
        else:
            self._start(zygote, template, process, launch)
        return process

    # -- as owner of the processes

    def process_ready(self, process: Process, phases_ms: dict[str, float]) -> None:
        if process.launch is not None:
            self._loop.call_later(_TEMPLATE_S, self._consider_template, process.launch, phases_ms.get("import", 0.0))

    def process_ended(self, process: Process) -> None:
        self._processes.discard(process)
        if process in self._spares:
            self._spares.remove(process)
        if self._groups is not None and process.group is not None:
            self._groups.give_back(process.group)
        if process.launch is not None:
            temporary = self._temporary / process.launch.instance
            if temporary.exists():
                self._loop.run_in_executor(None, lambda: shutil.rmtree(temporary, ignore_errors=True))
        self._refill_soon()

    # -- the zygote

    async def _start_zygote(self) -> Zygote:
        self._zygote = await Zygote.start(self._root, sandbox.ports(self._platform_ports))
        waiting, self._waiting = self._waiting, []
        for process in waiting:
            if process.launch is not None:
                self._start(self._zygote, None, process, process.launch)
        self._refill_soon()
        return self._zygote

    def _living_zygote(self) -> Zygote | None:
        return self._zygote if self._zygote is not None and self._zygote.alive else None

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
        if hello.private_root and self._groups is not None:
            self.isolation.append("sandbox")

    async def _supervise(self, zygote: Zygote) -> None:
        failures = 0
        while True:
            started = self._loop.time()
            await zygote.wait()
            failures = 0 if self._loop.time() - started > _STEADY_S else failures + 1
            self._log.error("zygote.died", failures=failures)
            zygote = await self._restart(failures)

    async def _restart(self, failures: int) -> Zygote:
        while True:
            await asyncio.sleep(_RESTART_S[min(failures, len(_RESTART_S) - 1)])
            try:
                return await self._start_zygote()
            except ZygoteFailed as error:
                failures += 1
                self._log.error("zygote.failed", error=str(error))

    # -- one process

    def _new(self) -> Process:
        process = Process(self._loop, self)
        self._processes.add(process)
        return process

    def _fork(self, forks: ForkServer, process: Process, mounts: Iterable[int] = ()) -> None:
        """Raises ``OSError`` when there are no more file descriptors or groups to be had."""
        fds = list(mounts)
        try:
            fds = process.wire() + fds
            if self._groups is not None:
                process.group = self._groups.lease()
                fds.append(process.group.open())
        except OSError:
            for fd in fds:
                os.close(fd)
            raise
        forks.fork(process, fds)

    def _start(self, zygote: Zygote, template: Template | None, process: Process, launch: Launch) -> None:
        try:
            if template is not None:
                memory_mb = launch.spec.memory_mb
                self._fork(template.serve(memory_mb), process, [sandbox.detached_tmpfs(memory_mb)])
            elif not process.wired:
                self._fork(zygote.forks, process)
            self._make_function(zygote, process, launch, with_code=template is None)
        except OSError as error:
            self._loop.call_soon(process.fail, f"preparing the sandbox: {error}")
        self._refill_soon()

    def _make_function(
        self, zygote: Zygote, process: Process, launch: Launch, *, with_code: bool = True, control: int | None = None
    ) -> None:
        """Raises ``OSError``. ``control`` makes it a template."""
        fields = self._describe_start(launch, zygote.hello) | {"template": control is not None}
        if process.group is not None:
            process.group.limit(launch.spec.memory_mb)
        fds = [sandbox.detached_mount(launch.code)] if with_code and zygote.hello.private_root else []
        process.start(fields, fds if control is None else [*fds, control])

    def _describe_start(self, launch: Launch, hello: Hello) -> dict[str, Any]:
        """The START frame's metadata. Raises ``OSError``."""
        spec = launch.spec
        uid = sandbox.uid_of(spec.name) if hello.uids else 0
        code, tmp = (_CODE, _TMP) if hello.private_root else (str(launch.code), str(self._make_temporary(launch, uid)))
        return {
            "function": {
                "name": spec.name,
                "version": str(spec.version),
                "memory_mb": spec.memory_mb,
                "payload": spec.payload,
            },
            "handler": spec.handler,
            "concurrency": spec.concurrency,
            "batch": spec.batch is not None,
            "env": sandbox.environment(spec, launch.instance, tmp),
            "confinement": {
                "uid": uid,
                "memory_mb": spec.memory_mb,
                "limit_data": self._groups is None,
                "code": code,
                "tmp": tmp,
                "connect": sorted(set(spec.connect) - self._platform_ports),
            },
        }

    def _make_temporary(self, launch: Launch, uid: int) -> Path:
        """Where there is no private root, a folder is what an instance has for temporary files."""
        folder = self._temporary / launch.instance
        folder.mkdir(mode=0o700)
        if uid:
            os.chown(folder, uid, uid)
        return folder

    # -- ahead of need

    def _refill_soon(self) -> None:
        if self._stopping:
            return
        if self._refill is not None:
            self._refill.cancel()
        self._refill = self._loop.call_later(_REFILL_S, self._refill_one)

    def _refill_one(self) -> None:
        self._refill = None
        self._templates.release()
        if self._groups is not None:
            self._groups.fill()
        zygote = self._living_zygote()
        if zygote is None or len(self._spares) >= _SPARES:
            return
        spare = self._new()
        try:
            self._fork(zygote.forks, spare)
        except OSError as error:
            self._log.warning("spare.failed", error=str(error))
            spare.finish(None)
            return
        self._spares.append(spare)
        self._refill_soon()

    def _consider_template(self, launch: Launch, import_ms: float) -> None:
        zygote = self._living_zygote()
        if not self._stopping and zygote is not None and zygote.hello.private_root:
            self._templates.consider(launch, import_ms)

    def _build_template(self, launch: Launch, listener: Listener) -> tuple[Process, ForkServer]:
        zygote = self._living_zygote()
        if zygote is None:
            raise OSError("no zygote")
        process = self._new()
        process.assign(launch, listener)
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with here, there:
            try:
                self._fork(zygote.forks, process)
                self._make_function(zygote, process, launch, control=os.dup(there.fileno()))
            except OSError:
                process.finish(None)
                raise
            uid = sandbox.uid_of(launch.spec.name) if zygote.hello.uids else None
            return process, ForkServer(here.dup(), uid)

    async def _watch_memory(self) -> None:
        """Without control groups: what escapes a process's own limit, such as memory it shares, is found here."""
        while True:
            await asyncio.sleep(_WATCH_S)
            for process in list(self._processes):
                if process.launch is not None and process.resident_mb() > process.launch.spec.memory_mb:
                    process.end_over_limit()
