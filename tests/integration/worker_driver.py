"""Drives one node as router, activator and registry would: by messages, and by what lies in KV."""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from mayfly_broker.server import EmbeddedServer
from mayfly_chassis.bus import Bus
from mayfly_chassis.errors import NoResponders
from mayfly_chassis.kv import Bucket
from mayfly_chassis.objects import ObjectStore
from mayfly_chassis.service import Chassis, running
from mayfly_proto import codec, errors, headers, messages, records, storage, subjects
from mayfly_proto.records import InstanceRecord, LogLine, NodeLease, NodeLoad, Package, Route, Usage, VersionSpec
from mayfly_worker.app import worker
from mayfly_worker.config import WorkerConfig

T = TypeVar("T")

NODE = "n1"
ECHO = "def handler(event, context):\n    return event\n"


@dataclass(frozen=True)
class Answer:
    payload: bytes
    headers: dict[str, str]
    error: errors.CallError | None

    @property
    def kind(self) -> str:
        return self.error.kind.value if self.error else "ok"


class Driver:
    """``router`` is the name it goes by; every message that a node sends to routers, logs and usage is kept."""

    def __init__(self, bus: Bus, router: str = "r1") -> None:
        self.bus = bus
        self.router = router
        self.epoch = 1
        self.done: list[messages.Done] = []
        self.failed: list[messages.Failed] = []
        self.loads: list[NodeLoad] = []
        self.logs: list[LogLine] = []
        self.usage: list[Usage] = []
        self.routes = Bucket(bus, storage.ROUTES)
        self.nodes = Bucket(bus, storage.NODES)
        self._replies: dict[bytes, asyncio.Future[Answer]] = {}
        self._count = count(1)
        self.seq = 0

    async def listen(self) -> None:
        unpack_done, unpack_failed = codec.Unpacker(messages.Done), codec.Unpacker(messages.Failed)
        for subject, keep in (
            (subjects.router_done(self.router), lambda payload: self.done.append(unpack_done(payload)[0])),
            (subjects.router_failed(self.router), lambda payload: self.failed.append(unpack_failed(payload)[0])),
            (subjects.LOAD_NODES, lambda payload: self.loads.append(records.decode(payload, NodeLoad))),
            (subjects.ALL_LOGS, lambda payload: self.logs.append(records.decode(payload, LogLine))),
            (subjects.ALL_USAGE, lambda payload: self.usage.append(records.decode(payload, Usage))),
        ):
            await self.bus.subscribe(subject, _payload(keep))
        await self.bus.subscribe(f"_INBOX.{self.router}.*", self._answered)
        await self.bus.subscribe(subjects.SETTLE, self._answered, queue=subjects.ROUTER_QUEUE)
        await self.bus.flush()

    async def deploy(self, name: str, source: str = ECHO, version: int = 1, **settings: Any) -> VersionSpec:
        data = source.encode()
        sha256 = hashlib.sha256(data).hexdigest()
        await ObjectStore(self.bus, storage.CODE).put(sha256, data)
        spec = VersionSpec(
            name=name,
            version=version,
            runtime="python",
            handler="code:handler",
            package=Package(sha256=sha256, size=len(data), format="py", filename="code.py"),
            created="2030-01-01T00:00:00Z",
            **settings,
        )
        key = storage.version_key(name, version)
        await Bucket(self.bus, storage.VERSIONS).put(key, records.encode(spec))
        return spec

    async def start(self, name: str, *ids: str, version: int = 1, memory_mb: int = 128, node: str = NODE) -> Any:
        start = messages.Start(self.router, self.epoch, name, version, list(ids), memory_mb)
        return await self.ask(subjects.node_start(node), start, messages.Started)

    async def adopt(self, members: list[str], node: str = NODE) -> messages.Adopted:
        adopt = messages.Adopt(self.router, self.epoch, members)
        return await self.ask(subjects.node_adopt(node), adopt, messages.Adopted)

    async def ask(self, subject: str, message: Any, answer: type[T]) -> T:
        reply = await self.bus.request(subject, codec.pack(message))
        return codec.Unpacker(answer)(reply.payload)[0]  # type: ignore[type-var]

    def stop(self, name: str, count: int = -1, version: int = 1) -> None:
        stop = messages.Stop(self.router, self.epoch, name, version, count)
        self.bus.publish(subjects.node_stop(NODE), codec.pack(stop))

    def hold(self, name: str, count: int, last_ms: int = -1, further_ms: int = -1) -> None:
        """``last_ms``, ``further_ms``: how long the last and others may be idle; below 0: as version 1 says."""
        hold = messages.Hold(self.router, self.epoch, name, 1, count, last_ms, further_ms)
        self.bus.publish(subjects.node_hold(NODE), codec.pack(hold))

    async def drain(self, on: bool = True, epoch: int = 1) -> messages.Drained:
        return await self.ask(subjects.node_drain(NODE), messages.Drain("s1", epoch, on), messages.Drained)

    async def reported(self, good: Callable[[NodeLoad], object]) -> NodeLoad:
        """Wait for a report that is so; those before this moment do not count."""
        self.loads.clear()
        return await until(lambda: next((load for load in self.loads if good(load)), None))

    def send(
        self,
        name: str,
        payload: bytes = b"null",
        *,
        version: int = 1,
        budget_ms: int = 30_000,
        attempt: int = 1,
        fields: dict[str, str] | None = None,
        durable: bool = False,
    ) -> asyncio.Future[Answer]:
        """One call, as a router dispatches it; ``fields`` are further headers."""
        self.seq += 1
        number = next(self._count)
        reply = f"_INBOX.{self.router}.{number}"
        if durable:
            reply = subjects.settle(name, f"EVENTS.{name}_1.1.{number}.{number}.0.0")
        future = self._replies[reply.encode()] = asyncio.get_running_loop().create_future()
        invoke = messages.Invoke(
            self.seq, self.router, self.epoch, name, version, f"inv{number}", reply, budget_ms, attempt
        )
        block = headers.block({"X-Request": str(number)} | (fields or {}))
        self.bus.publish(subjects.node_invoke(NODE), codec.pack(invoke, payload), headers=block)
        return future

    async def call(self, name: str, payload: bytes = b"null", **options: Any) -> Answer:
        return await asyncio.wait_for(self.send(name, payload, **options), 20)

    async def route(self, name: str, version: int = 1, node: str = NODE) -> Route | None:
        entry = await self.routes.get(storage.route_key(node, version, name))
        return records.decode(entry.value, Route) if entry else None

    async def ready(self, name: str, count: int = 1, version: int = 1) -> Route:
        """Wait for so many instances in the Route Cache."""
        return await until(lambda: self.route(name, version), lambda route: route and len(route.instances) == count)

    async def gone(self, name: str, version: int = 1) -> None:
        await until(lambda: self.route(name, version), lambda route: route is None)

    async def up(self, name: str, source: str = ECHO, *, instances: int = 1, **settings: Any) -> None:
        """Deploy, start, wait."""
        spec = await self.deploy(name, source, **settings)
        ids = [f"{name}{number}" for number in range(instances)]
        started = await self.start(name, *ids, memory_mb=spec.memory_mb)
        assert started.accepted == ids, started
        await self.ready(name, instances)

    async def lease(self, node: str = NODE) -> NodeLease | None:
        entry = await self.nodes.get(node)
        return records.decode(entry.value, NodeLease) if entry else None

    async def instances(self, node: str = NODE) -> list[InstanceRecord]:
        reply = await self.bus.request(subjects.node_instances(node))
        return records.decode(reply.payload, list[InstanceRecord])

    async def instances_or_none(self) -> list[InstanceRecord] | None:
        try:
            return await self.instances()
        except NoResponders:
            return None

    @property
    def finished(self) -> list[int]:
        return [seq for done in self.done for seq in done.done]

    @property
    def refused(self) -> list[tuple[int, str]]:
        return [refusal for done in self.done for refusal in done.refused]

    def _answered(self, subject: bytes, _reply: bytes, raw: bytes | None, payload: bytes) -> None:
        answer = Answer(payload, headers.parse(raw), errors.from_reply(raw, payload))
        self._replies[subject].set_result(answer)  # a second answer to one call raises, and the bus logs it


def _payload(keep: Callable[[bytes], None]) -> Callable[[bytes, bytes, bytes | None, bytes], None]:
    return lambda _subject, _reply, _headers, payload: keep(payload)


async def until(get: Callable[[], Any], good: Callable[[Any], Any] = bool, timeout_s: float = 10.0) -> Any:
    """Poll (what may be awaitable) until it is good; the test fails with what it was last."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = get()
        if asyncio.iscoroutine(value):
            value = await value
        if good(value):
            return value
        assert time.monotonic() < deadline, value
        await asyncio.sleep(0.01)


def config_of(server: EmbeddedServer, directory: Path, **settings: Any) -> WorkerConfig:
    password = directory / "password"
    directory.mkdir(parents=True, exist_ok=True)
    password.write_text(server.passwords["worker"])
    return WorkerConfig(
        nats_url=server.url, nats_password_file=password, directory=directory / "data", **{"memory_mb": 1024} | settings
    )


@asynccontextmanager
async def node(server: EmbeddedServer, directory: Path, **settings: Any) -> AsyncIterator[Chassis]:
    """A worker inside this loop."""
    async with running("worker", worker, config_of(server, directory, **settings)) as chassis:
        yield chassis
