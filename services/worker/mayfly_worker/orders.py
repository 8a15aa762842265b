"""What routers, the activator and the scaler ask of this node: frames in, `Node` asked, answers out."""

from collections.abc import Callable
from typing import TypeVar

import msgspec

from mayfly_chassis.bus import Bus, Subscription
from mayfly_chassis.errors import BusError
from mayfly_chassis.micro import Request
from mayfly_proto import codec, names, records, subjects
from mayfly_proto.messages import Adopt, Drain, Hold, Start, Started, Stop
from mayfly_worker.group import Instance
from mayfly_worker.invoke import MALFORMED
from mayfly_worker.node import Node

M = TypeVar("M", bound=msgspec.Struct)

_MAX_INSTANCES = 10_000  # in one order


class Orders:
    """``launch(instance, router)`` starts what was accepted."""

    def __init__(self, bus: Bus, node: Node, launch: Callable[[Instance, str], None]) -> None:
        self._bus = bus
        self._node = node
        self._launch = launch
        self._subscriptions: list[Subscription] = []

    async def subscribe(self) -> None:
        name = self._node.name
        await self._receive(subjects.node_start(name), Start, self._start)
        await self._receive(subjects.node_stop(name), Stop, self._node.stop)
        await self._receive(subjects.node_hold(name), Hold, self._node.hold)
        await self._receive(subjects.node_adopt(name), Adopt, self._adopt)
        await self._receive(subjects.node_drain(name), Drain, self._node.drain)
        invoke = subjects.node_invoke(name)
        self._subscriptions.append(await self._bus.subscribe(invoke, self._node.invoker.on_invoke))

    async def unsubscribe(self) -> None:
        for subscription in self._subscriptions:
            await subscription.unsubscribe()

    async def instances(self, _request: Request) -> bytes:
        """All instances of the node, as JSON for people."""
        return records.encode(self._node.reports.instances())

    async def _receive(self, subject: str, message: type[M], carry_out: Callable[[M], msgspec.Struct | None]) -> None:
        unpack = codec.Unpacker(message)

        def received(_subject: bytes, reply: bytes, _headers: bytes | None, frame: bytes) -> None:
            try:
                answer = carry_out(unpack(frame)[0])
            except MALFORMED as error:
                self._node.complain("order.malformed", f"{subject}: {error}")
                return
            if answer is not None and reply:
                try:
                    self._bus.publish(reply, codec.pack(answer))
                except BusError as error:
                    self._node.complain("answer.lost", str(error))

        self._subscriptions.append(await self._bus.subscribe(subject, received))

    def _start(self, start: Start) -> Started:
        names.check_node(start.router)
        names.check_function(start.function)
        if start.version < 1 or start.memory_mb < 1 or len(start.instances) > _MAX_INSTANCES:
            raise ValueError("version, memory or number of instances out of range")
        for id_ in start.instances:
            names.check_node(id_)
        started, starting = self._node.order(start)
        for instance in starting:
            self._launch(instance, start.router)
        return started

    def _adopt(self, adopt: Adopt) -> msgspec.Struct:
        for router in (adopt.router, *adopt.members):
            names.check_node(router)
        return self._node.adopt(adopt)
