"""Whether a node's name is somebody's who lives."""

import asyncio

from mayfly_chassis.bus import Bus
from mayfly_chassis.config import ServiceConfig
from mayfly_chassis.kv import Bucket
from mayfly_proto import storage

WORKER = "worker"

# A worker renews its lease every 3 s; one that was killed leaves it behind for 10.
PATIENCE_S = 4.0
_LOOK_S = 0.2


async def lives(config: ServiceConfig, node: str) -> bool:
    """Raises `BusError` when NATS is not there, or does not let a worker in."""
    user = config.nats_user or WORKER
    password = config.nats_password()
    bus = await Bus.connect(
        config.nats_url, name="mayfly-worker", role=WORKER, user=user, password=password, ca_file=config.nats_ca_file
    )
    try:
        bucket = Bucket(bus, storage.NODES)
        found = await bucket.get(node)
        left_s = PATIENCE_S
        while found is not None and left_s > 0:
            await asyncio.sleep(_LOOK_S)
            left_s -= _LOOK_S
            now = await bucket.get(node)
            if now is not None and now.revision != found.revision:
                return True
            found = now
        return False
    finally:
        await bus.close()
