"""A nats-server and single services on it, each a process of its own whose cost can be read."""

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil

from mayfly_broker.bootstrap import bootstrap
from mayfly_broker.config import make_passwords
from mayfly_broker.roles import OPERATOR
from mayfly_broker.server import EmbeddedServer
from mayfly_chassis import supervisor
from mayfly_chassis.bus import Bus
from scale import cpu

BENCH = Path(__file__).parents[1]
READY_S = 300.0


class Member:
    """A process of the stage. `ready_s`: from its start until it said that it is ready."""

    def __init__(self, process: subprocess.Popen[bytes], ready_s: float, log: Path) -> None:
        self._process = process
        self._seen = psutil.Process(process.pid)
        self.ready_s = ready_s
        self.log = log

    def cpu_s(self) -> float:
        return cpu.used_s(self._process.pid)

    def resident_mb(self) -> float:
        return float(self._seen.memory_info().rss / 2**20)

    async def end(self) -> None:
        """In good order; returns when it has ended."""
        self._process.terminate()
        await asyncio.to_thread(self._process.wait)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


class Stage:
    def __init__(self, server: EmbeddedServer, folder: Path, bus: Bus) -> None:
        self.server = server
        self.bus = bus  # the operator's
        self._folder = folder
        self._members: list[Member] = []

    async def connect(self, role: str) -> Bus:
        password = self.server.passwords[role]
        return await Bus.connect(self.server.url, name=f"bench-{role}", role=role, user=role, password=password)

    async def service(self, role: str, **fields: object) -> Member:
        """``python -m mayfly_<role>`` with these settings, ready on return."""
        return await self._start(["-m", f"mayfly_{role}"], role, {f"{role}_{key}": fields[key] for key in fields})

    async def nodes(self, *arguments: object) -> Member:
        """The process of `nodes`, which takes these arguments; its nodes have said who they are on return."""
        return await self._start(["-m", "scale.nodes", *map(str, arguments)], "worker", {})

    async def routers(self, *arguments: object) -> Member:
        """The process of `routers`, which takes these arguments."""
        return await self._start(["-m", "scale.routers", *map(str, arguments)], "router", {})

    async def _start(self, command: list[str], role: str, fields: dict[str, object]) -> Member:
        number = len(self._members)
        secret = self._folder / f"{role}.password"
        secret.touch(mode=0o600)
        secret.write_text(self.server.passwords[role])
        fields = fields | {"nats_url": self.server.url, "nats_user": role, "nats_password_file": secret}
        address = self._folder / f"notify-{number}"
        log = self._folder / f"{number}-{role}.log"
        environment = {
            **os.environ,
            "PYTHONPATH": str(BENCH),
            "NOTIFY_SOCKET": str(address),
            **{f"MAYFLY_{key}".upper(): str(value) for key, value in fields.items()},
        }
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel, log.open("wb") as out:
            channel.bind(str(address))
            channel.setblocking(False)
            began = time.perf_counter()
            process = subprocess.Popen([sys.executable, *command], env=environment, stdout=out, stderr=out)
            try:
                async with asyncio.timeout(READY_S):
                    said = await asyncio.get_running_loop().sock_recv(channel, 100)
            except TimeoutError:
                process.kill()
                raise RuntimeError(f"{role} is not ready:\n{log.read_text()[-2000:]}") from None
            assert said.decode() == supervisor.READY
        member = Member(process, time.perf_counter() - began, log)
        self._members.append(member)
        return member

    def close(self) -> None:
        for member in self._members:
            member.kill()


@asynccontextmanager
async def stage() -> AsyncIterator[Stage]:
    """An empty platform. nats-server is killed at the end: with many consumers a clean stop takes minutes."""
    with tempfile.TemporaryDirectory(prefix="mayfly-bench-") as directory:
        folder = Path(directory)
        server = EmbeddedServer(folder / "nats", passwords=make_passwords())
        server.start()
        try:
            password = server.passwords[OPERATOR]
            bus = await Bus.connect(server.url, name="bench", role=OPERATOR, user=OPERATOR, password=password)
            await bootstrap(bus)
            built = Stage(server, folder, bus)
            try:
                yield built
            finally:
                built.close()
                await bus.close()
        finally:
            server.kill()
