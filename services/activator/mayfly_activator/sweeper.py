"""Route Cache entries of nodes that are gone: litter, for nobody uses an entry without a lease of its epoch."""

import asyncio

import structlog

from mayfly_chassis.bus import Bus
from mayfly_chassis.errors import BusError
from mayfly_chassis.kv import Bucket
from mayfly_chassis.mirror import Mirror
from mayfly_proto import storage

SWEEP_S = 10.0

_log = structlog.get_logger()


async def sweep(bus: Bus, nodes: Mirror, routes: Mirror) -> None:
    """Delete entries whose node had no lease at two looks in a row. Runs until cancelled."""
    bucket = Bucket(bus, storage.ROUTES)
    before: dict[str, int] = {}
    while True:
        await asyncio.sleep(SWEEP_S)
        orphans = {key: routes.revision(key) for key, _ in routes.items() if _node(key) not in nodes}
        try:
            for key in [key for key, revision in orphans.items() if before.get(key) == revision]:
                await bucket.purge(key)
                _log.info("route.purged", key=key)
        except BusError as error:
            _log.warning("sweep.unreachable", error=str(error))
        before = orphans


def _node(key: str) -> str:
    return storage.parse_route_key(key)[0]
