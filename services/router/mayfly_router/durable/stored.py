"""What a router has to ask the streams for: the message of a delivery that another router began with, and what of an
ordered consumer is on its way."""

import asyncio
from collections.abc import Callable

import structlog

from mayfly_chassis import jetstream
from mayfly_chassis.bus import Bus
from mayfly_chassis.errors import BusError
from mayfly_proto import headers, subjects
from mayfly_router.durable.delivery import Delivery
from mayfly_router.durable.settler import ACK, GIVE_BACK, Settler
from mayfly_router.durable.source import Source
from mayfly_router.orders import Background

ASK_AGAIN_S = 0.25
GIVEN_BACK_S = (0.0, 0.5, 2.0)  # from the beginning: when what another router may have given back is asked for
LEASE_S = 10.0  # that another connection may have had, counted from now

_log = structlog.get_logger()


class Stored:
    def __init__(self, bus: Bus, settler: Settler, background: Background) -> None:
        self._bus = bus
        self._settler = settler
        self._background = background

    def fetch(self, delivery: Delivery, then: Callable[[], None], gone: Callable[[Delivery], None]) -> None:
        """Fill in the message, then go on. One that is ``gone`` from its stream has been settled."""
        self._background(f"fetch {delivery.invocation}", self._fetch(delivery, then, gone))

    async def _fetch(self, delivery: Delivery, then: Callable[[], None], gone: Callable[[Delivery], None]) -> None:
        if await self._fill(delivery):
            then()
        else:
            gone(delivery)

    async def _fill(self, delivery: Delivery) -> bool:
        """False when there is no such message, or somebody else is to have it. As long as it is held here it is asked
        for: given back, it would come again to where it is held."""
        held = delivery.is_held
        while True:
            try:
                message = await jetstream.at(self._bus, delivery.source.stream, delivery.sequence)
                break
            except BusError as error:
                _log.warning("delivery.not_fetched", invocation=delivery.invocation, error=str(error))
                if held:
                    await asyncio.sleep(ASK_AGAIN_S)
                if not delivery.is_held:
                    self._settler.say(delivery, GIVE_BACK)
                    return False
        if message is None:
            self._settler.say(delivery, ACK)
            return False
        block = message.headers if delivery.source.is_due else headers.publishers(message.headers)
        delivery.fill(message.subject.encode(), block, message.payload)
        return True

    def ask(self, delivery: Delivery, open_: Callable[[], None], settled: Callable[[Delivery], None]) -> None:
        """Whether it is still to be acknowledged, as far as its consumer tells: another router may have done it."""
        self._background(f"ask {delivery.invocation}", self._ask(delivery, open_, settled))

    async def _ask(self, delivery: Delivery, open_: Callable[[], None], settled: Callable[[Delivery], None]) -> None:
        source = delivery.source
        try:
            state = await jetstream.api(self._bus, subjects.consumer_info(source.stream, source.consumer))
        except BusError:
            open_()
            return
        if state["ack_floor"]["stream_seq"] >= delivery.sequence:
            settled(delivery)
        else:
            open_()

    def gather(self, source: Source, then: Callable[[], None]) -> None:
        """Wait until everything of this consumer that is not acknowledged is in our hands, and known: what comes then
        comes after it. What another router has given back comes at once. What another connection has had comes again
        when its lease is over, and is asked for without end only then: asked for before, new events would come in its
        stead, and leave no place for it."""
        self._background(f"gather {source.function}", self._gather(source, then))

    async def _gather(self, source: Source, then: Callable[[], None]) -> None:
        info = subjects.consumer_info(source.stream, source.consumer)
        loop = asyncio.get_running_loop()
        begun, asked, source.owed = loop.time(), 0, 0
        while source.early is not None and not source.gone:
            try:
                state = await jetstream.api(self._bus, info)
                last = state["delivered"]["stream_seq"]
                elsewhere = state["num_ack_pending"] - sum(sequence <= last for sequence in source.held)
                if elsewhere <= 0:
                    break
                waited_s = loop.time() - begun
                if (asked < len(GIVEN_BACK_S) and waited_s >= GIVEN_BACK_S[asked]) or waited_s > LEASE_S:
                    source.owed, asked = elsewhere, asked + 1
            except BusError as error:
                _log.warning("consumer.unknown", function=source.function, stream=source.stream, error=str(error))
            await asyncio.sleep(ASK_AGAIN_S)
        if source.gone:
            return
        for delivery in [d for d in source.held.values() if not d.whole]:
            if not await self._fill(delivery):
                delivery.drop()
        then()
