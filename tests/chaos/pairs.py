"""A platform with two of every service: `mayfly up --nodes 2`, and beside it a second one of all the others.

What `up` runs it starts again by itself when it ends; the second ones are kept by `Pairs`.
"""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import nats
import nats.errors

from mayfly.launcher import ports
from tests.acceptance import outside
from tests.acceptance.conftest import Platform, running

SERVICES = ("router", "activator", "registry", "scaler", "worker", "gateway")
_NAMED = {"router": "MAYFLY_ROUTER_NAME", "scaler": "MAYFLY_SCALER_NAME"}
_PING_S = 0.3
_READY_S = 90.0  # until a service that was told to stop has finished and is there again


@dataclass
class Second:
    """The second process of a service, started and stopped by the test."""

    service: str
    environ: dict[str, str]
    log: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with open(self.log, "ab") as log:
            command = [sys.executable, "-P", "-m", f"mayfly_{self.service}"]
            self.process = subprocess.Popen(command, env=self.environ, stdout=log, stderr=log)

    def stop(self) -> None:
        assert self.process is not None
        self.process.terminate()
        assert self.process.wait(timeout=_READY_S) == 0, f"{self.service} did not end in good order: see {self.log}"


class Pairs:
    def __init__(self, platform: Platform, second_http: int) -> None:
        self.platform = platform
        self.gateways = (platform.http, f"http://127.0.0.1:{second_http}")
        self._second = {
            service: Second(service, self._environ(service, second_http), platform.data / f"second-{service}.log")
            for service in SERVICES
            if service != "worker"
        }

    def start(self) -> None:
        for second in self._second.values():
            second.start()

    def kill(self) -> None:
        for second in self._second.values():
            if second.process is not None:
                second.process.kill()
                second.process.wait()

    async def restart_all(self, operator: nats.NATS, service: str) -> None:
        """One after the other, by SIGTERM, the next only when the one before is ready again."""
        for entry in [entry for entry in self.platform.services() if entry["name"] == service]:
            before = await _identities(operator, service)
            os.kill(entry["pid"], signal.SIGTERM)
            await self._again(operator, service, before)
        if second := self._second.get(service):
            before = await _identities(operator, service)
            await asyncio.to_thread(second.stop)
            second.start()
            await self._again(operator, service, before)

    async def ready(self, operator: nats.NATS) -> None:
        for service in SERVICES:
            await _until_two(operator, service, set())

    async def _again(self, operator: nats.NATS, service: str, before: set[str]) -> None:
        await _until_two(operator, service, before)
        if service == "worker":
            await outside.until(lambda: [node["draining"] for node in outside.nodes(self.platform)] == [False] * 2)

    def _environ(self, service: str, http: int) -> dict[str, str]:
        secrets = self.platform.data / "secrets"
        settings = {
            "MAYFLY_NATS_URL": self.platform.nats,
            "MAYFLY_NATS_USER": service,
            "MAYFLY_NATS_PASSWORD_FILE": str(secrets / service),
        }
        if service in _NAMED:
            settings[_NAMED[service]] = "second"
        if service == "gateway":
            settings |= {"MAYFLY_GATEWAY_PORT": str(http), "MAYFLY_GATEWAY_TOKEN_FILE": str(secrets / "token")}
        return {**os.environ, **settings}


@contextmanager
def pairs(folder: Path) -> Iterator[Pairs]:
    with running(folder, "--nodes", "2", "--node-memory", "4096") as platform:
        both = Pairs(platform, ports.choose("127.0.0.1", 0, ""))
        try:
            both.start()
            yield both
        finally:
            both.kill()


@asynccontextmanager
async def operating(platform: Platform) -> AsyncIterator[nats.NATS]:
    async with outside.client(platform.nats, user=platform.user, password=platform.password) as operator:
        yield operator


async def _until_two(operator: nats.NATS, service: str, before: set[str]) -> None:
    """Two answer, and one of them is new (or nobody was there before)."""
    async with asyncio.timeout(_READY_S):
        while True:
            found = await _identities(operator, service)
            if len(found) == 2 and found != before:
                return


async def _identities(operator: nats.NATS, service: str) -> set[str]:
    """Of all processes of a service that answer, as anybody finds them who looks for NATS micro services."""
    inbox = operator.new_inbox()
    answers = await operator.subscribe(inbox)
    await operator.publish(f"$SRV.PING.{service}", reply=inbox)
    found = set()
    try:
        while True:
            found.add((await answers.next_msg(timeout=_PING_S)).data.decode())
    except nats.errors.TimeoutError:
        return found
    finally:
        await answers.unsubscribe()
