"""Simulated worker nodes: ``python -m scale.nodes NODES FUNCTIONS COPIES [BUSY]``, with a worker's settings in the
environment.

One process and one connection play them all. Each holds a lease in KV, reports its load once a second as a real one
does, has routes in the Route Cache, answers `Adopt`, starts what it is asked to start, and answers calls with their own
payload. There is no code in them, no memory, and no limit: what they cost others is the point.

Every function (`catalogue.names`) has an instance on COPIES nodes, so each node has FUNCTIONS * COPIES / NODES. Of the
first BUSY functions each report says something else.
"""

import argparse
import asyncio
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

from mayfly_chassis import supervisor
from mayfly_chassis.bus import Bus
from mayfly_chassis.kv import Bucket
from mayfly_proto import codec, messages, ownership, records, storage, subjects
from scale import catalogue
from scale.simulated import run

SLOTS = 64  # of an instance
MEMORY_MB = 1_000_000
INSTANCE_MB = 128
RENEW_S = 3.0
LEASE_S = 10
STEPS = 100  # in which a second's reports go out

_adopt = codec.Unpacker(messages.Adopt)
_start = codec.Unpacker(messages.Start)
_invoke = codec.Unpacker(messages.Invoke)


class Node:
    def __init__(self, name: str) -> None:
        self.name = name
        self.instances: dict[tuple[str, int], list[str]] = {}  # by function and version; all of them idle
        self.busy: set[str] = set()  # functions, as far as reports are concerned
        self.routers: dict[str, records.RouterSeen] = {}
        self.last_seq: Counter[str] = Counter()
        self.reports = 0

    def load(self) -> records.NodeLoad:
        self.reports += 1
        instances: dict[str, dict[str, records.VersionLoad]] = {}
        for (function, version), ready in self.instances.items():
            busy, cpu_percent = (
                (random.randint(0, 1), random.randint(0, 50) / 10) if function in self.busy else (0, 0.3)
            )
            load = records.VersionLoad(ready=len(ready), busy=busy, private_mb=21.4, cpu_percent=cpu_percent)
            instances.setdefault(function, {})[str(version)] = load
        return records.NodeLoad(
            node=self.name,
            epoch=1,
            seq=self.reports,
            memory_mb=MEMORY_MB,
            memory_used_mb=INSTANCE_MB * sum(map(len, self.instances.values())),
            cpu_percent=12.5,
            instances=instances,
            routers={router: records.RouterSeen(last_seq=seq, calls=[]) for router, seq in self.last_seq.items()},
        )

    def route(self, function: str, version: int) -> records.Route:
        instances = self.instances[function, version]
        return records.Route(epoch=1, instances=instances, slots=SLOTS * len(instances))


class Swarm:
    def __init__(self, bus: Bus, nodes: int, functions: int, copies: int, busy: int) -> None:
        self._bus = bus
        self._nodes = {f"n{number}": Node(f"n{number}") for number in range(1, nodes + 1)}
        self._routes = Bucket(bus, storage.ROUTES)
        self._leases = Bucket(bus, storage.NODES)
        self._members: tuple[int, list[str]] = (0, [])
        self._done: dict[tuple[str, Node], list[int]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        everybody = list(self._nodes.values())
        for number, name in enumerate(catalogue.names(functions)):
            for copy in range(copies):
                node = everybody[(number * copies + copy) % nodes]
                node.instances[name, 1] = [f"i{number}-{copy}"]
                if number < busy:
                    node.busy.add(name)

    async def start(self) -> None:
        handlers: dict[bytes, Callable[..., None]] = {
            b"invoke": self._on_invoke,
            b"start": self._on_start,
            b"adopt": self._on_adopt,
        }

        def received(subject: bytes, reply: bytes, _raw: bytes | None, frame: bytes) -> None:
            _, _, name, verb = subject.split(b".")
            node, handler = self._nodes.get(name.decode()), handlers.get(verb)
            if node is not None and handler is not None:
                handler(node, reply, frame)

        await self._bus.subscribe(subjects.node_anything("*"), received)
        await self._bus.flush()
        await catalogue.together(self._renew(node) for node in self._nodes.values())
        routes = [(node, *key) for node in self._nodes.values() for key in node.instances]
        await catalogue.together(self._put_route(*route) for route in routes)

    async def live(self) -> None:
        """Report and renew, spread over the second. Runs until cancelled."""
        clock = asyncio.get_running_loop().time
        turns = [list(self._nodes.values())[step::STEPS] for step in range(STEPS)]
        began, step = clock(), 0
        while True:
            for node in turns[step % STEPS]:
                self._bus.publish(subjects.load_node(node.name), records.encode(node.load()))
                if step // STEPS % int(RENEW_S) == 0:
                    self._spawn(self._renew(node))
            step += 1
            await asyncio.sleep(began + step / STEPS - clock())

    def _on_adopt(self, node: Node, reply: bytes, frame: bytes) -> None:
        adopt, _ = _adopt(frame)
        if adopt.epoch > self._members[0]:
            self._members = (adopt.epoch, adopt.members)
        node.last_seq[adopt.router] += 0  # from now on the report speaks of it
        own = [
            messages.InstanceView(function, version, instance, "idle")
            for (function, version), instances in node.instances.items()
            if ownership.owner(function, self._members[1]) == adopt.router
            for instance in instances
        ]
        self._bus.publish(reply, codec.pack(messages.Adopted(node.name, 1, node.last_seq[adopt.router], own, [])))

    def _on_start(self, node: Node, reply: bytes, frame: bytes) -> None:
        start, _ = _start(frame)
        node.instances[start.function, start.version] = start.instances  # the others are gone, or who would have asked
        self._bus.publish(reply, codec.pack(messages.Started(start.instances)))
        self._spawn(self._put_route(node, start.function, start.version))

    def _on_invoke(self, node: Node, _reply: bytes, frame: bytes) -> None:
        invoke, payload = _invoke(frame)
        node.last_seq[invoke.router] = invoke.seq
        if invoke.reply:
            self._bus.publish(invoke.reply, payload)
        if not self._done:
            asyncio.get_running_loop().call_soon(self._tell)
        self._done.setdefault((invoke.router, node), []).append(invoke.seq)

    def _tell(self) -> None:
        """What one tick of the loop has finished, in one message for each router and node."""
        done, self._done = self._done, {}
        for (router, node), seqs in done.items():
            frame = codec.pack(messages.Done(node.name, 1, node.last_seq[router], seqs))
            self._bus.publish(subjects.router_done(router), frame)

    async def _renew(self, node: Node) -> None:
        lease = records.NodeLease(node=node.name, epoch=1, client=self._bus.identity, memory_mb=MEMORY_MB, cores=64)
        await self._leases.put(node.name, records.encode(lease), ttl_s=LEASE_S)

    async def _put_route(self, node: Node, function: str, version: int) -> None:
        value = records.encode(node.route(function, version))
        await self._routes.put(storage.route_key(node.name, version, function), value)

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def play(bus: Bus, nodes: int, functions: int, copies: int, busy: int) -> None:
    swarm = Swarm(bus, nodes, functions, copies, busy)
    await swarm.start()
    supervisor.notify(supervisor.READY)
    await swarm.live()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("nodes", "functions", "copies"):
        parser.add_argument(name, type=int)
    parser.add_argument("busy", type=int, nargs="?", default=0)
    options = parser.parse_args()
    run("worker", lambda bus: play(bus, options.nodes, options.functions, options.copies, options.busy))
