"""A tick of a schedule runs once: whoever begins with it claims it in KV, by schedule and time.

nats-server makes one message of each tick, but after a restart or a change of leaders it may make the last one again;
that is another message with the same (schedule, next time). A message that is delivered again is not: its own claim
stands there.
"""

import hashlib
from collections.abc import Callable

import structlog

from mayfly_chassis.bus import Bus
from mayfly_chassis.errors import BusError, KeyExists
from mayfly_chassis.kv import Bucket
from mayfly_proto import records, storage
from mayfly_proto.records import IdempotencyRecord
from mayfly_router.delivery import Delivery
from mayfly_router.orders import Background

KEPT_S = 86_400

_log = structlog.get_logger()


class Ticks:
    def __init__(self, bus: Bus, background: Background) -> None:
        self._claims = Bucket(bus, storage.IDEMPOTENCY)
        self._background = background

    def claim(self, delivery: Delivery, identity: str, then: Callable[[bool | None], None]) -> None:
        """``then`` hears whether this delivery is the first of its tick; None: NATS does not say."""
        self._background(f"tick {delivery.invocation}", self._claim(delivery, identity, then))

    async def _claim(self, delivery: Delivery, identity: str, then: Callable[[bool | None], None]) -> None:
        digest = hashlib.blake2b(identity.encode(), digest_size=16).hexdigest()
        key = storage.idempotency_key(delivery.source.function, digest)
        claim = records.encode(IdempotencyRecord(invocation=delivery.invocation))
        try:
            await self._claims.create(key, claim, ttl_s=KEPT_S)
        except KeyExists:
            entry = await self._claims.get(key)
            then(entry is None or records.decode(entry.value, IdempotencyRecord).invocation == delivery.invocation)
        except BusError as error:
            _log.warning("tick.unclaimed", invocation=delivery.invocation, error=str(error))
            then(None)
        else:
            then(True)
