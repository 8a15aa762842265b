"""An activator, put together. It keeps nothing that the nodes do not tell again within a second."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from mayfly_activator.config import ActivatorConfig
from mayfly_activator.fleet import Fleet
from mayfly_activator.starter import Starter
from mayfly_activator.sweeper import sweep
from mayfly_chassis.micro import Request
from mayfly_chassis.mirror import Mirror
from mayfly_chassis.service import Chassis
from mayfly_proto import codec, storage, subjects
from mayfly_proto.errors import CallError, ErrorType
from mayfly_proto.messages import Activate

ORDERS_AT_ONCE = 256

_decode = codec.Unpacker(Activate)


@asynccontextmanager
async def app(chassis: Chassis, config: ActivatorConfig) -> AsyncIterator[None]:
    bus = chassis.bus
    fleet = Fleet()
    starter = Starter(bus, fleet)
    nodes = Mirror(bus, storage.NODES, fleet.on_lease)
    routes = Mirror(bus, storage.ROUTES, fleet.on_route)

    async def activate(request: Request) -> bytes:
        try:
            order, _ = _decode(request.payload)
        except (msgspec.MsgspecError, ValueError) as error:
            raise CallError(ErrorType.BAD_REQUEST, str(error), component=chassis.name) from error
        return codec.pack(await starter.start(order))

    await bus.subscribe(subjects.LOAD_NODES, fleet.on_load)
    await asyncio.gather(nodes.start(), routes.start())
    chassis.background("sweeper", sweep(bus, nodes, routes))
    await chassis.micro.endpoint(
        "activate", subjects.ACTIVATE, activate, queue=subjects.ACTIVATOR_QUEUE, limit=ORDERS_AT_ONCE
    )
    yield
    await nodes.stop()
    await routes.stop()
