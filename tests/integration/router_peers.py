"""What a router meets outside: a worker that speaks the protocol and does as it is told, a registry's hand, callers.

The worker is a peer with a connection of its own: it starts "instances" that answer with their own id, and can be told
to refuse, to lose frames or words, to be silent, and to die.
"""

import asyncio
import itertools
import json
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

from mayfly_activator.app import app as activator_app
from mayfly_activator.config import ActivatorConfig
from mayfly_broker.server import EmbeddedServer
from mayfly_chassis.bus import Bus, Reply
from mayfly_chassis.errors import NoResponders, RequestTimeout
from mayfly_chassis.kv import Bucket
from mayfly_chassis.service import Chassis, running
from mayfly_proto import codec, errors, headers, messages, ownership, records, storage, subjects
from mayfly_proto.messages import Refusal
from mayfly_router.app import app as router_app
from mayfly_router.config import RouterConfig
from tests.integration.processes import end

HEARTBEAT_S = 0.1
RENEW_EVERY = 30  # heartbeats
IDLE = msgspec.structs.asdict(records.FunctionLoad())  # what is not said of a function is so


class ScriptedWorker:
    def __init__(self, bus: Bus, name: str, epoch: int, *, memory_mb: int = 10_000, cold_s: float = 0.02) -> None:
        self.bus = bus
        self.name = name
        self.epoch = epoch
        self.memory_mb = memory_mb
        self.cold_s = cold_s
        self.service_s = 0.0
        self.init_error = ""  # what starts fail with
        self.deaf = False  # frames are lost
        self.mute = False  # words to the router are lost
        self.silent = False  # no heartbeat, no answer to a question
        self.held: asyncio.Event | None = None  # calls end when it is set
        self.unread: list[tuple[msgspec.Struct, Callable[[], None]]] | None = (
            None  # what has come while it reads nothing
        )
        self.draining = False
        self.obedient = False  # does what `Stop` says, else only hears it
        self.on_stop: Callable[[], object] = lambda: None
        self.leaving: set[str] = set()  # instances that go with their call
        self.started: list[str] = []  # functions, in the order of their starts
        self.slots: dict[str, tuple[str, int, int, bool]] = {}  # instance → function, version, memory, ready
        self.idle: dict[tuple[str, int], list[str]] = {}
        self.running: dict[int, tuple[str, str, messages.Invoke]] = {}  # seq → router, instance, frame
        self.last_seq: Counter[str] = Counter()
        self.fence: tuple[int, list[str]] = (0, [])
        self.runs: Counter[bytes] = Counter()  # payload → times it ran
        self.refusals: Counter[str] = Counter()
        self.stops: list[messages.Stop] = []
        self.holds: list[messages.Hold] = []
        self.most = 0  # instances at one time
        self.asked = 0  # orders to start something
        self._adopted = 0
        self._routes = Bucket(bus, storage.ROUTES)
        self._leases = Bucket(bus, storage.NODES)
        self._tasks: set[asyncio.Task[Any]] = set()

    async def start(self) -> None:
        name = self.name
        for subject, kind, handler in (
            (subjects.node_adopt(name), messages.Adopt, self._on_adopt),
            (subjects.node_start(name), messages.Start, self._on_start),
            (subjects.node_stop(name), messages.Stop, self._on_stop),
            (subjects.node_hold(name), messages.Hold, self.holds.append),
        ):
            await self.bus.subscribe(subject, self._receiver(kind, handler))
        await self.bus.subscribe(subjects.node_invoke(name), self._on_invoke)
        await self.bus.flush()
        await self.renew()
        self._spawn(self._beat())

    async def renew(self) -> None:
        lease = records.NodeLease(
            node=self.name,
            epoch=self.epoch,
            client=self.bus.identity,
            memory_mb=self.memory_mb,
            cores=2,
            draining=self.draining,
        )
        await self._leases.put(self.name, records.encode(lease), ttl_s=10)

    async def die(self) -> None:
        """The connection ends; nothing is said."""
        for task in list(self._tasks):
            task.cancel()
        await self.bus.close()

    def _receiver(self, kind: type, handler: Callable[[Any], Any]) -> Callable[..., None]:
        unpack = codec.Unpacker(kind)

        def receive(subject: bytes, reply: bytes, raw: bytes | None, frame: bytes) -> None:
            message = unpack(frame)[0]
            if self.unread is not None:
                self.unread.append((message, lambda: receive(subject, reply, raw, frame)))
                return
            answer = None if self.silent else handler(message)
            if answer is not None:
                self.bus.publish(reply, codec.pack(answer))

        return receive

    def read_on(self) -> None:
        """What has come since `unread` was made a list."""
        unread, self.unread = self.unread or [], None
        for _, read in unread:
            read()

    def _admits(self, router: str, epoch: int, function: str) -> bool:
        return epoch >= self.fence[0] or ownership.owner(function, self.fence[1]) == router

    def _on_adopt(self, adopt: messages.Adopt) -> messages.Adopted:
        if adopt.epoch > self.fence[0]:
            self.fence = (adopt.epoch, adopt.members)
        instances = [
            messages.InstanceView(function, version, instance, "idle" if ready else "starting")
            for instance, (function, version, _, ready) in self.slots.items()
        ]
        for seq, (router, instance, frame) in list(self.running.items()):
            ours = ownership.owner(frame.function, self.fence[1]) == adopt.router
            if ours and router != adopt.router:
                self._adopted -= 1
                self.running[self._adopted] = (adopt.router, instance, self.running.pop(seq)[2])
        calls = [
            messages.CallView(seq, frame.function, frame.version, frame.invocation, frame.reply, frame.budget_ms)
            for seq, (router, _, frame) in self.running.items()
            if router == adopt.router
        ]
        self.last_seq[adopt.router] += 0  # from now on the heartbeat speaks of it
        return messages.Adopted(self.name, self.epoch, self.last_seq[adopt.router], instances, calls)

    def _on_start(self, start: messages.Start) -> messages.Started:
        self.asked += 1
        if not self._admits(start.router, start.epoch, start.function):
            return messages.Started([], Refusal.STALE)
        if self.draining:
            return messages.Started([], Refusal.DRAINING)
        accepted = []
        for instance in start.instances:
            if sum(memory for _, _, memory, _ in self.slots.values()) + start.memory_mb > self.memory_mb:
                return messages.Started(accepted, Refusal.NO_ROOM)
            self.slots[instance] = (start.function, start.version, start.memory_mb, False)
            self.most = max(self.most, len(self.slots))
            self.started.append(start.function)
            accepted.append(instance)
            self._spawn(self._cold_start(start, instance))
        return messages.Started(accepted)

    async def _cold_start(self, start: messages.Start, instance: str) -> None:
        await asyncio.sleep(self.cold_s)
        if self.init_error:
            del self.slots[instance]
            failed = messages.Failed(
                self.name, self.epoch, start.function, start.version, instance, "init_failed", self.init_error, "Trace"
            )
            self.bus.publish(subjects.router_failed(start.router), codec.pack(failed))
            return
        self.slots[instance] = (start.function, start.version, start.memory_mb, True)
        self.idle.setdefault((start.function, start.version), []).append(instance)
        await self.write_route(start.function, start.version)

    async def write_route(self, function: str, version: int) -> None:
        ready = [
            i
            for i, (f, v, _, ready) in self.slots.items()
            if (f, v) == (function, version) and ready and i not in self.leaving
        ]
        key = storage.route_key(self.name, version, function)
        if ready:
            route = records.Route(epoch=self.epoch, instances=ready, slots=len(ready))
            await self._routes.put(key, records.encode(route))
        else:
            await self._routes.delete(key)

    async def reclaim(self, function: str, version: int) -> None:
        for instance in self.idle.pop((function, version), []):
            del self.slots[instance]
        await self.write_route(function, version)

    async def drain(self, on: bool = True) -> None:
        self.draining = on
        await self.renew()

    def _on_stop(self, stop: messages.Stop) -> None:
        self.stops.append(stop)
        self.on_stop()
        if not self.obedient:
            return
        idle = self.idle.get((stop.function, stop.version), [])
        busy = [instance for _, instance, frame in self.running.values() if frame.function == stop.function]
        chosen = [*idle, *busy] if stop.count < 0 else [*idle, *busy][: stop.count]
        for instance in chosen:
            if instance in idle:
                idle.remove(instance)
                del self.slots[instance]
            else:
                self.leaving.add(instance)
        self._spawn(self.write_route(stop.function, stop.version))

    def _on_invoke(self, subject: bytes, reply: bytes, raw: bytes | None, frame: bytes) -> None:
        if self.deaf:
            return
        meta, payload = codec.Unpacker(messages.Invoke)(frame)
        if self.unread is not None:
            self.unread.append((meta, lambda: self._on_invoke(subject, reply, raw, frame)))
            return
        self.last_seq[meta.router] = max(self.last_seq[meta.router], meta.seq)
        if not self._admits(meta.router, meta.epoch, meta.function):
            self._refuse(meta, Refusal.STALE)
        elif not self.idle.get((meta.function, meta.version)):
            self._refuse(meta, Refusal.BUSY)
        else:
            instance = self.idle[meta.function, meta.version].pop()
            self.runs[payload] += 1
            self.running[meta.seq] = (meta.router, instance, meta)
            self._spawn(self._serve(meta, instance, payload))

    async def _serve(self, meta: messages.Invoke, instance: str, payload: bytes) -> None:
        if self.held is not None:
            await self.held.wait()
        if self.service_s:
            await asyncio.sleep(self.service_s)
        seq, router = next((s, r) for s, (r, _, frame) in self.running.items() if frame is meta)
        del self.running[seq]
        if instance in self.leaving:
            del self.slots[instance]
        else:
            self.idle[meta.function, meta.version].append(instance)
        if meta.reply:
            answer = {"instance": instance, "version": meta.version, "echo": payload.decode(), "attempt": meta.attempt}
            self.bus.publish(meta.reply, json.dumps(answer).encode())
        self._say(router, messages.Done(self.name, self.epoch, self.last_seq[router], [seq]))

    def _refuse(self, meta: messages.Invoke, reason: str) -> None:
        self.refusals[reason] += 1
        last = self.last_seq[meta.router]
        self._say(meta.router, messages.Done(self.name, self.epoch, last, [], [(meta.seq, reason)]))

    def _say(self, router: str, done: messages.Done) -> None:
        if not self.mute:
            self.bus.publish(subjects.router_done(router), codec.pack(done))

    async def _beat(self) -> None:
        for beat in itertools.count(1):
            if not self.silent:
                self.bus.publish(subjects.load_node(self.name), records.encode(self._load()))
                if beat % RENEW_EVERY == 0:
                    self._spawn(self.renew())
            await asyncio.sleep(HEARTBEAT_S)

    def _load(self) -> records.NodeLoad:
        instances: dict[str, dict[str, records.VersionLoad]] = {}
        for function, version, _, _ in self.slots.values():
            states = [ready for f, v, _, ready in self.slots.values() if (f, v) == (function, version)]
            idle = len(self.idle.get((function, version), []))
            counts = records.VersionLoad(ready=sum(states), busy=sum(states) - idle, starting=len(states) - sum(states))
            instances.setdefault(function, {})[str(version)] = counts
        return records.NodeLoad(
            node=self.name,
            epoch=self.epoch,
            seq=1,
            memory_mb=self.memory_mb,
            memory_used_mb=sum(memory for _, _, memory, _ in self.slots.values()),
            cpu_percent=0,
            instances=instances,
            routers={
                router: records.RouterSeen(
                    last_seq=last, calls=[seq for seq, (owner, _, _) in self.running.items() if owner == router]
                )
                for router, last in self.last_seq.items()
            },
        )

    def _spawn(self, coroutine: Any) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class Platform:
    """Router, activator and scripted workers on one server."""

    def __init__(self, server: EmbeddedServer, directory: Path, stack: AsyncExitStack) -> None:
        self.server = server
        self._directory = directory
        self._stack = stack
        self._epochs = 0
        self.caller: Bus
        self._registry: Bus
        self._operator: Bus

    async def connect(self, role: str) -> Bus:
        bus = await Bus.connect(
            self.server.url, name=f"test-{role}", role=role, user=role, password=self.server.passwords[role]
        )
        self._stack.push_async_callback(bus.close)
        return bus

    def settings(self, role: str) -> dict[str, Any]:
        secret = self._directory / f"{role}.password"
        secret.write_text(self.server.passwords[role])
        secret.chmod(0o600)
        return {"nats_url": self.server.url, "nats_user": role, "nats_password_file": secret}

    async def router(self, name: str = "r1", **fields: Any) -> Chassis:
        config = RouterConfig(name=name, **(self.settings("router") | fields))
        return await self._stack.enter_async_context(running("router", router_app, config))

    async def router_process(self, name: str) -> asyncio.subprocess.Process:
        """A router that can be killed; one of the members on return."""
        process = await self.start_router(name)
        async with asyncio.timeout(20):
            while True:
                with suppress(NoResponders):
                    if name in (await self.state(name))["members"]:
                        return process
                await asyncio.sleep(0.02)

    async def start_router(self, name: str) -> asyncio.subprocess.Process:
        settings = {key.upper(): str(value) for key, value in self.settings("router").items()}
        variables = {f"MAYFLY_ROUTER_{key}": value for key, value in (settings | {"NAME": name}).items()}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "mayfly_router", env=os.environ | variables, stdout=asyncio.subprocess.DEVNULL
        )
        self._stack.push_async_callback(end, process)
        return process

    async def activator(self) -> AsyncExitStack:
        """Close what is returned to stop it."""
        stack = await self._stack.enter_async_context(AsyncExitStack())
        config = ActivatorConfig(**self.settings("activator"))
        await stack.enter_async_context(running("activator", activator_app, config))
        return stack

    async def worker(self, name: str = "n1", **fields: Any) -> ScriptedWorker:
        self._epochs += 1
        worker = ScriptedWorker(await self.connect("worker"), name, self._epochs, **fields)
        await worker.start()
        self._stack.push_async_callback(worker.die)
        return worker

    async def deploy(self, name: str = "f", version: int = 1, versions: list[int] | None = None, **fields: Any) -> None:
        """Publish a version as the registry does, and wait until its owner answers for it."""
        package = records.Package(sha256="0" * 64, size=1, format="py", filename="f.py")
        spec = records.VersionSpec(
            name=name, version=version, runtime="python", handler="f:f", package=package, created="", **fields
        )
        await Bucket(self._registry, storage.VERSIONS).put(storage.version_key(name, version), records.encode(spec))
        await self.point(name, version, versions or list(range(1, version + 1)))
        await self.callable(name, version)

    async def point(self, name: str, current: int, versions: list[int]) -> None:
        record = records.FunctionRecord(name=name, current=current, versions=versions)
        await Bucket(self._registry, storage.FUNCTIONS).put(name, records.encode(record))

    async def delete(self, name: str) -> None:
        await Bucket(self._registry, storage.FUNCTIONS).delete(name)

    async def callable(self, name: str, version: int) -> None:
        probe = headers.block({headers.PROBE: "1"})
        async with asyncio.timeout(10):
            while True:
                with suppress(NoResponders, RequestTimeout):  # a router that is killed takes a probe with it
                    reply = await self._registry.request(subjects.call(name), headers=probe, timeout_s=0.2)
                    if headers.find(reply.headers or b"", headers.VERSION.encode()) == str(version).encode():
                        return
                await asyncio.sleep(0.01)

    async def call(self, subject: str = "fn.f", payload: bytes = b"x", *, timeout_s: float = 20, **fields: str) -> Any:
        """The result, or a CallError."""
        raw = headers.block({name.replace("_", "-"): value for name, value in fields.items()}) if fields else None
        return outcome(await self.caller.request(subject, payload, headers=raw, timeout_s=timeout_s))

    async def state(self, router: str = "r1") -> Any:
        state = json.loads((await self._operator.request(subjects.router_state(router))).payload)
        functions = {name: IDLE | load for name, load in state["functions"].items()}
        return state | {"functions": functions}

    async def until(self, holds: Callable[[Any], bool], router: str = "r1", timeout_s: float = 10) -> None:
        """Poll the router's own account of itself."""
        async with asyncio.timeout(timeout_s):
            while True:
                with suppress(NoResponders):
                    if holds(await self.state(router)):
                        return
                await asyncio.sleep(0.01)


def outcome(reply: Reply) -> Any:
    error = errors.from_reply(reply.headers, reply.payload)
    return error if error is not None else json.loads(reply.payload)


@asynccontextmanager
async def platform(server: EmbeddedServer, directory: Path) -> AsyncIterator[Platform]:
    async with AsyncExitStack() as stack:
        platform = Platform(server, directory, stack)
        platform.caller = await platform.connect("client")
        platform._registry = await platform.connect("registry")
        platform._operator = await platform.connect("operator")
        yield platform
