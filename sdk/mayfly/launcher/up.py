"""The life of `mayfly up` on one page.

lock the data directory → nats-server → streams and buckets → all services at once → ready, scaler → wait for a signal
→ stop in order: gateway and scaler, router, workers, activator and registry, nats-server
"""

import asyncio
import os
import signal
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Protocol, TypeVar

from mayfly import platform_file
from mayfly.launcher import nats_context, plan, ports, readiness
from mayfly.launcher.directory import TOKEN, DataDirectory
from mayfly.launcher.nodes import LocalNodes
from mayfly.launcher.run import NatsRun, Run, ServiceRun
from mayfly.launcher.supervisor import Service, Supervisor
from mayfly.platform_file import Platform
from mayfly_broker import access
from mayfly_broker.bootstrap import bootstrap
from mayfly_broker.roles import OPERATOR, ROLES
from mayfly_broker.server import EmbeddedServer
from mayfly_chassis.bus import Bus
from mayfly_chassis.kv import Bucket
from mayfly_chassis.micro import Micro
from mayfly_proto import records, storage

T = TypeVar("T")

START_TIMEOUT_S = 60.0

_STORE_POLL_S = 0.05


class Terminal(Protocol):
    """Whom `up` talks to."""

    def say(self, line: str) -> None:
        """What the user asked to know."""

    def complain(self, line: str) -> None:
        """What goes wrong."""

    def log(self, service: str, chunk: bytes) -> None:
        """What a service writes."""


async def up(options: plan.Options, terminal: Terminal) -> None:
    """Returns after SIGINT or SIGTERM.

    Raises `InUse`, `PortTaken`, `InvalidAccess`, `StartFailed` or `BootstrapError`.
    """
    directory = DataDirectory(options.data)
    with directory.locked():
        options = replace(
            options,
            access=options.access or _own_access(directory),
            port=ports.choose(options.host, options.port, "--port"),
            nats_port=ports.choose("127.0.0.1", options.nats_port, "--nats-port"),
        )
        await _Life(options, directory, terminal).live()


class _Life:
    def __init__(self, options: plan.Options, directory: DataDirectory, terminal: Terminal) -> None:
        self._options = options
        self._directory = directory
        self._terminal = terminal
        self._stopping = False
        self._supervisor = Supervisor(self._publish, terminal.complain)
        self._bus: Bus | None = None
        self._announced = (directory.path / platform_file.NAME).exists()  # it has been ready at least once
        self._server = EmbeddedServer(
            directory.nats,
            port=options.nats_port,
            passwords={role: directory.secret(role) for role in ROLES},
            anonymous=not options.secure,
            access=access.read(options.access) if options.access else access.NOTHING,
        )
        self._platform = Platform(
            nats=self._server.url,
            http=ports.address(options.host, options.port),
            user=OPERATOR,
            password=directory.secret(OPERATOR),
            token=directory.secret(TOKEN),
        )

    async def live(self) -> None:
        with self._signals(), readiness.listening(self._supervisor.on_ready) as notify:
            try:
                async with asyncio.TaskGroup() as tasks:
                    await self._start(tasks, notify)
            except asyncio.CancelledError:
                self._terminal.say("stopping")
            except ExceptionGroup as group:
                raise group.exceptions[0] from None
            finally:
                self._stopping = True
                if self._bus is not None:
                    await self._bus.close()
                await self._supervisor.stop(plan.STOP_ORDER)
                self._publish()

    async def _start(self, tasks: asyncio.TaskGroup, notify: str) -> None:
        await self._wait_for_store()
        started = asyncio.get_running_loop().time()
        # Its stop takes 10 ms for each durable consumer; what it does in that time is to write their state.
        nats = Service(plan.NATS, plan.NATS, self._server.log_file, lambda: NatsRun(self._server), stop_s=None)
        self._supervisor.add(nats, tasks)
        await nats.ready.wait()
        bus = await self._unswallowed(self._connect(), tasks)
        await self._unswallowed(bootstrap(bus), tasks)
        planned = self._plan()
        await self._start_services(planned, bus, tasks, notify)
        await self._supervisor.wait_ready(START_TIMEOUT_S)
        self._supervisor.add(self._service(planned.scaler(), notify), tasks)
        isolation = await self._unswallowed(_isolation(bus), tasks)
        self._greet(isolation, asyncio.get_running_loop().time() - started)

    def _plan(self) -> plan.Plan:
        return plan.plan(
            self._options,
            self._directory,
            nats_url=self._server.url,
            machine_memory_mb=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20,
            environ=os.environ,
        )

    async def _start_services(self, planned: plan.Plan, bus: Bus, tasks: asyncio.TaskGroup, notify: str) -> None:
        def make(node: str) -> Service:
            return self._service(planned.worker(node), notify)

        nodes = LocalNodes(self._supervisor, self._directory, tasks, make, self._options.most_nodes)
        for spec in planned.services():
            if spec.node:
                nodes.begin_with(spec.node)
            else:
                self._supervisor.add(self._service(spec, notify), tasks)
        await nodes.listen(Micro(bus, "up", version("mayfly"), "Mayfly on one machine", tasks))

    async def _wait_for_store(self) -> None:
        """The nats-server of an `up` that was killed gets its SIGTERM from the kernel, and may stop for a minute."""
        if owner := self._server.store_owner():
            self._terminal.say(f"waiting for the nats-server of the last run (process {owner}) to stop")
        while self._server.store_owner():  # noqa: ASYNC110 - a file lock that is given back tells nobody
            await asyncio.sleep(_STORE_POLL_S)

    async def _connect(self) -> Bus:
        password = self._platform.password
        self._bus = await Bus.connect(self._server.url, name="up", role=OPERATOR, user=OPERATOR, password=password)
        return self._bus

    async def _unswallowed(self, work: Coroutine[None, None, T], tasks: asyncio.TaskGroup) -> T:
        """nats-py swallows a cancellation that comes while it writes: in a task of its own it cannot swallow ours."""
        return await asyncio.shield(tasks.create_task(work, name="operator"))

    def _service(self, spec: plan.Spec, notify: str) -> Service:
        log = self._directory.log(spec.name)
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("MAYFLY_")}
        environment = {**inherited, **spec.settings, "NOTIFY_SOCKET": notify}
        show = (lambda chunk: self._terminal.log(spec.name, chunk)) if self._options.verbose else None

        def start() -> Run:
            return ServiceRun(spec.module, environment, log, show)

        return Service(spec.service, spec.name, log, start)

    def _greet(self, isolation: list[str], seconds: float) -> None:
        platform, say = self._platform, self._terminal.say
        first, self._announced = not self._announced, True
        self._publish()
        context = nats_context.write(self._directory.path, platform, os.environ)
        say(f"data       {self._directory.path}")
        say(f"http       {platform.http}   (API: {platform.http}/docs)")
        say(f"nats       {platform.nats}   (operator: nats --context {context})")
        if first:
            say(f"token      {platform.token}   (said once; platform.json keeps it)")
        for line in isolation:
            say(f"isolation  {line}")
        if self._options.scales:
            say(f"nodes      {self._options.nodes}, and up to {self._options.max_nodes} as load asks for them")
        say(f"ready      in {seconds:.1f} s; Ctrl-C stops it")

    def _publish(self) -> None:
        """A platform that has never been ready has no platform.json."""
        if self._announced:
            services = self._supervisor.processes()
            platform_file.write(self._directory.path, replace(self._platform, services=services))

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """The first signal stops everything in order, each further one stops it now."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None

        def on_signal() -> None:
            if self._stopping:
                self._supervisor.kill()
            else:
                self._stopping = True
                task.cancel()

        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        for number in numbers:
            loop.add_signal_handler(number, on_signal)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)


def _own_access(directory: DataDirectory) -> Path | None:
    file = directory.path / access.FILENAME
    return file if file.exists() else None


async def _isolation(bus: Bus) -> list[str]:
    """What each node says that it gives, and what it lacks."""
    entries = await Bucket(bus, storage.NODES).load()
    leases = [records.decode(entry.value, records.NodeLease) for entry in entries.values()]
    return [f"{lease.node} gives {'; '.join([', '.join(lease.isolation), *lease.notes])}" for lease in leases]
