"""What a scaler meets outside: functions as the registry publishes them, nodes and routers that only report, and people
who listen to what it says."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from time import monotonic
from typing import Any, TypeVar

import msgspec

from mayfly_broker.server import EmbeddedServer
from mayfly_chassis.bus import Bus
from mayfly_chassis.errors import NoResponders
from mayfly_chassis.kv import Bucket
from mayfly_chassis.service import Chassis, running
from mayfly_proto import codec, messages, records, storage, subjects
from mayfly_proto.records import Decision, FunctionLoad, FunctionTarget, NodeLease, NodeLoad, ScalerLease, Shares
from mayfly_scaler.app import app
from mayfly_scaler.config import ScalerConfig
from tests.integration.processes import end

REPORT_S = 0.2
T = TypeVar("T")


class World:
    """``reporting``: whether the router's reports get through."""

    def __init__(self, server: EmbeddedServer, directory: Path, stack: AsyncExitStack) -> None:
        self.server = server
        self.functions: dict[str, FunctionLoad] = {}  # what the router says of them, again and again
        self.nodes: dict[str, NodeLoad] = {}
        self.reporting = True
        self.decisions: list[Decision] = []
        self.shares: list[Shares] = []
        self._directory = directory
        self._stack = stack
        self.router: Bus
        self.worker: Bus
        self.registry: Bus
        self.operator: Bus

    async def connect(self, role: str) -> Bus:
        password = self.server.passwords[role]
        bus = await Bus.connect(self.server.url, name=f"test-{role}", role=role, user=role, password=password)
        self._stack.push_async_callback(bus.close)
        return bus

    async def listen(self) -> None:
        await self.operator.subscribe(subjects.DECISIONS, _keeping(self.decisions, Decision))
        await self.operator.subscribe(subjects.SHARES, _keeping(self.shares, Shares))
        await self.operator.flush()

    # scalers

    def settings(self, name: str, fields: dict[str, Any]) -> dict[str, Any]:
        secret = self._directory / "scaler.password"
        secret.write_text(self.server.passwords["scaler"])
        return {"nats_url": self.server.url, "nats_password_file": secret, "name": name} | fields

    async def scaler(self, name: str = "s1", **fields: Any) -> "Started":
        stack = await self._stack.enter_async_context(AsyncExitStack())
        config = ScalerConfig(**self.settings(name, fields))
        return Started(await stack.enter_async_context(running("scaler", app, config)), stack)

    async def scaler_process(self, name: str = "s1", **fields: Any) -> asyncio.subprocess.Process:
        """One that can be killed; it leads, or stands by, on return."""
        variables = {f"MAYFLY_SCALER_{key.upper()}": str(v) for key, v in self.settings(name, fields).items()}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "mayfly_scaler", env=os.environ | variables, stdout=asyncio.subprocess.DEVNULL
        )
        self._stack.push_async_callback(end, process)
        before = await self._running()
        async with asyncio.timeout(20):
            while await self._running() <= before:
                await asyncio.sleep(0.02)
        return process

    async def leader(self) -> ScalerLease | None:
        entry = await Bucket(self.operator, storage.LEASES).get(storage.SCALER_LEASE_KEY)
        return None if entry is None else records.decode(entry.value, ScalerLease)

    async def led_by(self, name: str, *, timeout_s: float = 10) -> float:
        """Wait until that scaler says so; how long it took."""
        began = monotonic()
        async with asyncio.timeout(timeout_s):
            while True:
                lease = await self.leader()
                if lease is not None and lease.scaler == name and lease.epoch:
                    return monotonic() - began
                await asyncio.sleep(0.02)

    async def _running(self) -> int:
        subject = subjects.service_verb("PING", "scaler")
        with suppress(NoResponders):
            return len(await self.operator.request_many(subject, timeout_s=0.2))
        return 0

    # functions, nodes, and what is said of them

    async def deploy(self, name: str = "hello", **fields: Any) -> None:
        await deploy(self.registry, name, **fields)

    async def delete(self, name: str) -> None:
        await Bucket(self.registry, storage.FUNCTIONS).delete(name)
        await Bucket(self.registry, storage.VERSIONS).delete(storage.version_key(name, 1))

    async def node(self, name: str, memory_mb: int = 1000, **fields: Any) -> None:
        lease = NodeLease(node=name, epoch=1, client=self.worker.identity, memory_mb=memory_mb, cores=2)
        await Bucket(self.worker, storage.NODES).put(name, records.encode(lease))
        base: dict[str, Any] = {"memory_used_mb": 0, "cpu_percent": 0.0, "instances": {}, "routers": {}}
        self.nodes[name] = NodeLoad(node=name, epoch=1, seq=1, memory_mb=memory_mb, **base | fields)

    def say(self, function: str = "hello", **fields: Any) -> None:
        """Once, besides what it goes on saying: pauses are said once."""
        load = msgspec.structs.replace(self.functions.get(function, FunctionLoad()), **fields)
        self._report({**self.functions, function: load})

    def block(self, function: str, instances: int, reason: str = messages.Refusal.NO_ROOM) -> None:
        blocked = messages.Blocked("r1", function, 1, instances, 100, reason)
        self.router.publish(subjects.BLOCKED, codec.pack(blocked))

    async def report(self) -> None:
        while True:
            self._report(self.functions)
            for load in self.nodes.values():
                self.worker.publish(subjects.load_node(load.node), records.encode(load))
            await asyncio.sleep(REPORT_S)

    def _report(self, functions: dict[str, FunctionLoad]) -> None:
        if self.reporting:
            load = records.RouterLoad(router="r1", epoch=1, functions=functions)
            self.router.publish(subjects.load_router("r1"), records.encode(load))

    # what becomes of it

    async def target(self, function: str = "hello") -> FunctionTarget:
        entry = await Bucket(self.operator, storage.TARGETS).get(storage.function_target_key(function))
        return FunctionTarget() if entry is None else records.decode(entry.value, FunctionTarget)

    async def revision(self, function: str = "hello") -> int:
        entry = await Bucket(self.operator, storage.TARGETS).get(storage.function_target_key(function))
        return 0 if entry is None else entry.revision

    async def until(
        self, holds: Callable[[FunctionTarget], bool], function: str = "hello", *, timeout_s: float = 10
    ) -> FunctionTarget:
        target = FunctionTarget()
        try:
            async with asyncio.timeout(timeout_s):
                while not holds(target := await self.target(function)):
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise AssertionError(f"{function} has {target}") from None
        return target


class Started:
    """A scaler in this process."""

    def __init__(self, chassis: Chassis, stack: AsyncExitStack) -> None:
        self.chassis = chassis
        self._stack = stack

    async def stop(self) -> None:
        await self._stack.aclose()


def _keeping(kept: list[T], kind: type[T]) -> Callable[[bytes, bytes, bytes | None, bytes], None]:
    def keep(_subject: bytes, _reply: bytes, _raw: bytes | None, payload: bytes) -> None:
        kept.append(records.decode(payload, kind))

    return keep


async def deploy(registry: Bus, name: str, **fields: Any) -> None:
    """As far as a scaler sees it."""
    package = records.Package(sha256="0" * 64, size=1, format="py", filename="f.py")
    spec = records.VersionSpec(
        name=name, version=1, runtime="python", handler="f:f", package=package, created="", **fields
    )
    await Bucket(registry, storage.VERSIONS).put(storage.version_key(name, 1), records.encode(spec))
    record = records.FunctionRecord(name=name, current=1, versions=[1])
    await Bucket(registry, storage.FUNCTIONS).put(name, records.encode(record))


@asynccontextmanager
async def world(server: EmbeddedServer, directory: Path) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        world = World(server, directory, stack)
        for role in ("router", "worker", "registry", "operator"):
            setattr(world, role, await world.connect(role))
        await world.listen()
        reports = asyncio.create_task(world.report())
        stack.callback(reports.cancel)
        yield world
