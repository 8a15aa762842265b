"""Carries verdicts out: what has to be stored is stored, then the delivery is acknowledged.

Most deliveries are events that went well and have nowhere to go: for them it is one publish.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress

import structlog

from mayfly_chassis import jetstream
from mayfly_chassis.bus import Bus
from mayfly_chassis.errors import BusError
from mayfly_router.delivery import Delivery
from mayfly_router.orders import Background
from mayfly_router.settle import Verdict

ACK = b"+ACK"
GIVE_BACK = b"-NAK"
IN_PROGRESS = b"+WPI"
NOT_NOW = b'-NAK {"delay": 2000000000}'  # ns: a stream is full, or NATS does not answer

_log = structlog.get_logger()


class Settler:
    def __init__(self, bus: Bus, background: Background) -> None:
        self._bus = bus
        self._background = background

    def carry_out(self, delivery: Delivery, verdict: Verdict, then: Callable[[Delivery, Verdict], None]) -> None:
        """``then`` is called when it is done; not when it could not be: the event comes again by itself."""
        if not verdict.writes:
            self.settled(delivery, verdict, then)
        else:
            self._background(f"settle {delivery.invocation}", self._store(delivery, verdict, then))

    def settled(self, delivery: Delivery, verdict: Verdict, then: Callable[[Delivery, Verdict], None]) -> None:
        if verdict.again_in_s is None:
            self.say(delivery, ACK)
        then(delivery, verdict)

    def say(self, delivery: Delivery, word: bytes) -> None:
        """A word about a delivery. Lost without a connection: then the event comes again."""
        with suppress(BusError):
            self._bus.publish(delivery.ack, word)

    async def _store(self, delivery: Delivery, verdict: Verdict, then: Callable[[Delivery, Verdict], None]) -> None:
        try:
            await asyncio.gather(
                *(jetstream.publish(self._bus, w.subject, w.payload, headers=w.headers) for w in verdict.writes)
            )
        except BusError as error:
            _log.warning("settle.not_stored", invocation=delivery.invocation, error=str(error))
            self.say(delivery, NOT_NOW)
            then(delivery, Verdict([], final=True))
        else:
            self.settled(delivery, verdict, then)
