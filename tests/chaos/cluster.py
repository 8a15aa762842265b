"""Mayfly on a cluster of three nats-servers, every stream on all three: ``python -m tests.chaos.cluster DATA``.

As `mayfly up` does with one server, this keeps servers and services running, writes ``platform.json``, says ``ready``,
and stops everything at SIGTERM. Services get the addresses of all servers and find another when theirs is gone.
"""

import asyncio
import os
import secrets
import signal
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from mayfly import platform_file
from mayfly.launcher import plan, ports, readiness
from mayfly.launcher.directory import TOKEN, DataDirectory
from mayfly.launcher.run import NatsRun, ServiceRun
from mayfly.launcher.supervisor import Service, Supervisor
from mayfly.platform_file import Platform
from mayfly_broker.bootstrap import bootstrap
from mayfly_broker.config import Cluster, make_passwords
from mayfly_broker.roles import OPERATOR, ROLES
from mayfly_broker.server import EmbeddedServer
from mayfly_chassis.bus import Bus

SIZE = 3
WHOLE_TIMEOUT_S = 40.0  # an election takes 4 to 9 s
START_TIMEOUT_S = 60.0
NODE_MEMORY_MB = 4096


class Servers:
    """Three nats-servers on 127.0.0.1 that know each other."""

    def __init__(self, folder: Path, passwords: dict[str, str] | None = None) -> None:
        self.passwords = passwords or make_passwords()
        routes = tuple(ports.choose("127.0.0.1", 0, "") for _ in range(SIZE))
        secret = secrets.token_urlsafe(24)
        self.all = [
            EmbeddedServer(
                folder / f"nats-{number}",
                passwords=self.passwords,
                port=ports.choose("127.0.0.1", 0, ""),
                cluster=Cluster(server=f"nats-{number}", port=route, ports=routes, password=secret),
            )
            for number, route in enumerate(routes, 1)
        ]

    @property
    def url(self) -> str:
        return ",".join(server.url for server in self.all)

    def whole(self) -> bool:
        """Every server runs, has a leader for each of its streams and consumers, and has caught up with it."""
        return all(server.running and healthy(server.monitoring_url) for server in self.all)

    def wait_whole(self) -> None:
        deadline = time.monotonic() + WHOLE_TIMEOUT_S
        while not self.whole():
            assert time.monotonic() < deadline, f"the cluster is not whole after {WHOLE_TIMEOUT_S:g} s"
            time.sleep(0.1)

    async def connect(self, role: str = OPERATOR) -> Bus:
        return await Bus.connect(self.url, name=f"test-{role}", role=role, user=role, password=self.passwords[role])

    def __enter__(self) -> Self:
        try:
            for server in self.all:
                server.start()
            self.wait_whole()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_raised: object) -> None:
        for server in self.all:
            server.kill()  # nobody needs what they keep any longer


def healthy(monitoring_url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{monitoring_url}/healthz", timeout=5) as page:
            return bool(page.status == 200)
    except (urllib.error.URLError, OSError):
        return False


async def run(data: Path) -> None:
    """Until cancelled."""
    directory = DataDirectory(data)
    with directory.locked():
        await _Platform(directory).live()


class _Platform:
    def __init__(self, directory: DataDirectory) -> None:
        self._directory = directory
        self._servers = Servers(directory.nats, {role: directory.secret(role) for role in ROLES})
        self._port = ports.choose("127.0.0.1", 0, "")
        self._supervisor = Supervisor(self._publish, print)

    async def live(self) -> None:
        with readiness.listening(self._supervisor.on_ready) as notify:
            try:
                async with asyncio.TaskGroup() as tasks:
                    await self._start(tasks, notify)
            finally:
                await self._supervisor.stop(plan.STOP_ORDER)

    async def _start(self, tasks: asyncio.TaskGroup, notify: str) -> None:
        for server in self._servers.all:
            self._supervisor.add(self._nats(server), tasks)
        await asyncio.gather(*(service.ready.wait() for service in self._supervisor.services))
        await asyncio.to_thread(self._servers.wait_whole)
        bus = await self._servers.connect()
        await bootstrap(bus, SIZE)
        await bus.close()
        for spec in self._specs():
            self._supervisor.add(self._service(spec, notify), tasks)
        await self._supervisor.wait_ready(START_TIMEOUT_S)
        self._publish()
        print("ready", flush=True)

    def _specs(self) -> list[plan.Spec]:
        options = plan.Options(
            data=self._directory.path,
            host="127.0.0.1",
            port=self._port,
            nats_port=self._servers.all[0].port,
            nodes=1,
            node_memory_mb=NODE_MEMORY_MB,
            secure=False,
            verbose=False,
        )
        planned = plan.plan(
            options, self._directory, nats_url=self._servers.url, machine_memory_mb=NODE_MEMORY_MB, environ={}
        )
        return [*planned.services(), planned.scaler()]

    def _nats(self, server: EmbeddedServer) -> Service:
        return Service(plan.NATS, server.store.name, server.log_file, lambda: NatsRun(server), stop_s=None)

    def _service(self, spec: plan.Spec, notify: str) -> Service:
        log = self._directory.log(spec.name)
        environment = {**os.environ, **spec.settings, "NOTIFY_SOCKET": notify}
        return Service(spec.service, spec.name, log, lambda: ServiceRun(spec.module, environment, log, None))

    def _publish(self) -> None:
        platform = Platform(
            nats=self._servers.url,
            http=ports.address("127.0.0.1", self._port),
            user=OPERATOR,
            password=self._directory.secret(OPERATOR),
            token=self._directory.secret(TOKEN),
            services=self._supervisor.processes(),
        )
        platform_file.write(self._directory.path, platform)


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        yield
    except asyncio.CancelledError:
        return


async def main() -> None:
    with _ended_by_sigterm():
        await run(Path(sys.argv[1]))


if __name__ == "__main__":
    asyncio.run(main())
