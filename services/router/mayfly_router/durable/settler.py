"""Carries verdicts out: what has to be stored is stored, then the delivery is acknowledged.

Most deliveries are events that went well and have nowhere to go: for them it is one publish.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress

import structlog

from mayfly_chassis import jetstream
from mayfly_chassis.bus import Bus
from mayfly_chassis.errors import BusError, MessageTooLarge
from mayfly_router.durable.delivery import Delivery
from mayfly_router.durable.settle import Verdict, Write
from mayfly_router.orders import Background

ACK = b"+ACK"
GIVE_BACK = b"-NAK"
IN_PROGRESS = b"+WPI"
NOT_NOW = b'-NAK {"delay": 2000000000}'  # ns: a stream is full, or NATS does not answer
PAUSES_S = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)  # between attempts to store a verdict

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
        """It is tried for some time before the event runs again: what the function did it has done, and in an order
        the next one waits."""
        held, left = delivery.is_held, verdict.writes
        for pause_s in (*PAUSES_S, None):
            errors = await asyncio.gather(*(self._written(write) for write in left))
            left = [write for write, error in zip(left, errors, strict=True) if error is not None]
            if not left:
                self.settled(delivery, verdict, then)
                return
            why = next(str(error) for error in errors if error is not None)
            _log.warning("settle.not_stored", invocation=delivery.invocation, subject=left[0].subject, error=why)
            if pause_s is None or any(isinstance(error, MessageTooLarge) for error in errors):
                break
            await asyncio.sleep(pause_s)
            if held and not delivery.is_held:
                return  # it was given back meanwhile
        self.say(delivery, NOT_NOW)
        then(delivery, Verdict([], final=True))

    async def _written(self, write: Write) -> BusError | None:
        try:
            if write.stored:
                await jetstream.publish(self._bus, write.subject, write.payload, headers=write.headers)
            else:
                self._bus.publish(write.subject, write.payload, headers=write.headers)
        except BusError as error:
            return error
        return None
