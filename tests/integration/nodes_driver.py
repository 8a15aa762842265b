"""What the scaler's node level meets outside: `mayfly up`, that starts and stops workers, and workers that report,
drain and end. They do in milliseconds what real ones do, and can be told not to."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from mayfly_broker.server import EmbeddedServer
from mayfly_chassis.bus import Bus, Subscription
from mayfly_chassis.errors import KeyExists
from mayfly_chassis.kv import Bucket
from mayfly_chassis.service import running
from mayfly_proto import api, codec, messages, records, states, storage, subjects
from mayfly_proto.errors import CallError, ErrorType
from mayfly_proto.records import Decision, NodeLease, NodeLoad, NodeTarget, VersionLoad
from mayfly_scaler.app import app
from mayfly_scaler.config import ScalerConfig
from tests.integration.processes import end
from tests.integration.scaler_driver import deploy
from tests.integration.worker_driver import until

NODE_MB = 1000
REPORT_S = 0.1
PACE = {"tick_s": 0.1, "window_s": 1.0, "after_out_s": 0.5, "between_in_s": 0.3, "boot_s": 1.5}

_decode_drain = codec.Unpacker(messages.Drain)


@dataclass(eq=False)
class Worker:
    """A node that has a lease, reports, and does as it is told; ``obeys`` False: it hears nothing of drains;
    ``stopping``: it has had its SIGTERM."""

    name: str
    bus: Bus
    epoch: int = 1
    used_mb: int = 0
    memory_mb: int = NODE_MB
    draining: bool = False
    obeys: bool = True
    stopping: bool = False
    told: int = 0
    scaler_epoch: int = 0
    labels: dict[str, str] = field(default_factory=dict)
    instances: dict[str, int] = field(default_factory=dict)  # function → those that are ready
    _subscription: Subscription | None = None
    _task: asyncio.Task[None] | None = None

    @property
    def state(self) -> str:
        if not self.draining:
            return states.Node.UP.value
        return states.Node.DRAINING.value if self.used_mb else states.Node.EMPTY.value

    async def start(self) -> None:
        self._subscription = await self.bus.subscribe(subjects.node_drain(self.name), self._told)
        await self._lease()
        self._task = asyncio.create_task(self._report())

    async def end(self) -> None:
        assert self._subscription is not None and self._task is not None
        self._task.cancel()
        await self._subscription.unsubscribe()
        await Bucket(self.bus, storage.NODES).delete(self.name)

    async def _lease(self) -> None:
        lease = NodeLease(
            node=self.name,
            epoch=self.epoch,
            client=self.bus.identity,
            memory_mb=self.memory_mb,
            cores=2,
            draining=self.draining,
            labels=self.labels,
        )
        await Bucket(self.bus, storage.NODES).put(self.name, records.encode(lease))

    def _told(self, _subject: bytes, reply: bytes, _raw: bytes | None, payload: bytes) -> None:
        drain, _ = _decode_drain(payload)
        self.told += 1
        if not self.obeys:
            return
        reason = messages.Refusal.STALE if drain.epoch < self.scaler_epoch else ""
        if self.stopping and not drain.on:
            reason = messages.Refusal.DRAINING
        if not reason:
            self.scaler_epoch = drain.epoch
            self.draining = drain.on
            asyncio.get_running_loop().create_task(self._lease())
        self.bus.publish(reply, codec.pack(messages.Drained(self.name, self.epoch, self.state, reason)))

    async def _report(self) -> None:
        while True:
            load = NodeLoad(
                node=self.name,
                epoch=self.epoch,
                seq=1,
                memory_mb=self.memory_mb,
                memory_used_mb=self.used_mb,
                cpu_percent=0.0,
                instances={name: {"1": VersionLoad(ready=count)} for name, count in self.instances.items()},
                routers={},
                state=self.state,
            )
            self.bus.publish(subjects.load_node(self.name), records.encode(load))
            await asyncio.sleep(REPORT_S)


class Machine:
    """Serves `mayfly.local.nodes` as `mayfly up` does; ``boots`` False: what it starts never comes; ``full``: it
    refuses to start any; ``hangs``: it answers nothing; ``stuck``: it cannot end these."""

    def __init__(self, operator: Bus, worker: Bus) -> None:
        self.workers: dict[str, Worker] = {}
        self.listed: set[str] = set()
        self.asked: list[str] = []  # "add n2", each time
        self.boots = True
        self.full = False
        self.hangs = False
        self.stuck: set[str] = set()
        self._operator = operator
        self._worker = worker
        self._subscription: Subscription | None = None

    async def serve(self) -> None:
        self._subscription = await self._operator.subscribe(subjects.LOCAL_NODES, self._asked_for)
        await self._operator.flush()

    async def fall_silent(self) -> None:
        assert self._subscription is not None
        await self._subscription.unsubscribe()

    async def start(self, name: str, *, by_hand: bool = False, **fields: Any) -> Worker:
        if not by_hand:
            self.listed.add(name)
        worker = self.workers[name] = Worker(name, self._worker, **fields)
        await worker.start()
        return worker

    async def load(self, used_mb: int) -> None:
        """The first nodes are filled first; what they drain moves to others."""
        for name in sorted(self.workers):
            worker = self.workers[name]
            worker.used_mb = min(used_mb, NODE_MB)
            used_mb -= worker.used_mb

    @property
    def up(self) -> list[str]:
        return sorted(name for name, worker in self.workers.items() if not worker.draining)

    def _asked_for(self, subject: bytes, reply: bytes, _raw: bytes | None, payload: bytes) -> None:
        verb = subject.decode().rpartition(".")[2]
        asyncio.get_running_loop().create_task(self._do(verb, api.decode(payload, api.NodeRequest).node, reply))

    async def _do(self, verb: str, node: str, reply: bytes) -> None:
        if verb != api.LIST:
            self.asked.append(f"{verb} {node}")
        if self.hangs:
            return
        if (verb == api.ADD and self.full) or (verb == api.REMOVE and node in self.stuck):
            error = CallError(ErrorType.CONFLICT, "it is full" if self.full else "it is stuck", component="up")
            self._operator.publish(reply, error.body(), headers=error.headers())
            return
        if verb == api.ADD and node not in self.listed:
            self.listed.add(node)
            if self.boots:
                await self.start(node)
        if verb == api.REMOVE and node in self.listed:
            self.listed.discard(node)
            if node in self.workers:
                await self.workers.pop(node).end()
        self._operator.publish(reply, api.encode(api.LocalNodes(nodes=sorted(self.listed))))


class Cluster:
    """A server, a machine, and what people ask and hear."""

    def __init__(self, server: EmbeddedServer, directory: Path, stack: AsyncExitStack) -> None:
        self.decisions: list[Decision] = []
        self.machine: Machine
        self.operator: Bus
        self.router: Bus
        self._registry: Bus
        self._server = server
        self._directory = directory
        self._stack = stack

    async def open(self) -> None:
        self.operator = await self._connect("operator")
        self.router = await self._connect("router")
        self._registry = await self._connect("registry")
        self.machine = Machine(await self._connect("operator"), await self._connect("worker"))
        await self.operator.subscribe(subjects.DECISIONS, self._heard)
        await self.machine.serve()

    async def scaler(self, name: str = "s1", **fields: Any) -> AsyncExitStack:
        """In this process; leads, or stands by, on return."""
        stack = await self._stack.enter_async_context(AsyncExitStack())
        config = ScalerConfig(**self._settings(name, fields))
        await stack.enter_async_context(running("scaler", app, config))
        return stack

    async def scaler_process(self, name: str = "s1", **fields: Any) -> asyncio.subprocess.Process:
        """One that can be killed; it leads on return."""
        settings = {f"MAYFLY_SCALER_{key.upper()}": str(value) for key, value in self._settings(name, fields).items()}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "mayfly_scaler", env=os.environ | settings, stderr=asyncio.subprocess.DEVNULL
        )
        self._stack.push_async_callback(end, process)
        before = sum(decision.action == "lead" for decision in self.decisions)
        await until(lambda: sum(d.action == "lead" for d in self.decisions) > before, timeout_s=20)
        return process

    async def end_lease(self) -> None:
        """As five seconds would, after its holder was killed."""
        await Bucket(self.operator, storage.LEASES).delete(storage.SCALER_LEASE_KEY)

    async def ask(self, verb: str, node: str, why: str = "") -> api.NodeReply | int:
        """What the management API answers: the reply, or an error's code."""
        request = api.encode(api.NodeRequest(node=node, why=why))
        reply = await self.operator.request(subjects.api(api.NODE, verb), request)
        if b"Nats-Service-Error-Code" in (reply.headers or b""):
            code: int = msgspec.json.decode(reply.payload)["error"]["code"]
            return code
        return api.decode(reply.payload, api.NodeReply)

    async def target(self, node: str) -> NodeTarget | None:
        entry = await Bucket(self.operator, storage.TARGETS).get(storage.node_target_key(node))
        return records.decode(entry.value, NodeTarget) if entry else None

    async def want_empty(self, node: str, by: str = "scaler") -> None:
        value = records.encode(NodeTarget(by=by, since="2030-01-01T00:00:00Z", why="test"))
        with suppress(KeyExists):
            await Bucket(self.operator, storage.TARGETS).create(storage.node_target_key(node), value)

    async def deploy(self, name: str, **fields: Any) -> None:
        await deploy(self._registry, name, **fields)

    def block(self, instances: int, function: str = "hello", memory_mb: int = 100) -> None:
        blocked = messages.Blocked("r1", function, 1, instances, memory_mb, messages.Refusal.NO_ROOM)
        self.router.publish(subjects.BLOCKED, codec.pack(blocked))

    def decided(self, action: str) -> list[Decision]:
        return [decision for decision in self.decisions if decision.action == action]

    def _heard(self, _subject: bytes, _reply: bytes, _raw: bytes | None, payload: bytes) -> None:
        self.decisions.append(records.decode(payload, Decision))

    def _settings(self, name: str, fields: dict[str, Any]) -> dict[str, Any]:
        secret = self._directory / "scaler.password"
        secret.write_text(self._server.passwords["scaler"])
        own = {"nats_url": self._server.url, "nats_password_file": secret, "name": name}
        local = {"provider": "local", "max_nodes": 4, "node_memory_mb": NODE_MB}
        return own | local | PACE | fields

    async def _connect(self, role: str) -> Bus:
        password = self._server.passwords[role]
        bus = await Bus.connect(self._server.url, name=f"test-{role}", role=role, user=role, password=password)
        self._stack.push_async_callback(bus.close)
        return bus


@asynccontextmanager
async def cluster(server: EmbeddedServer, directory: Path) -> AsyncIterator[Cluster]:
    async with AsyncExitStack() as stack:
        made = Cluster(server, directory, stack)
        await made.open()
        yield made
        for worker in made.machine.workers.values():
            await worker.end()
