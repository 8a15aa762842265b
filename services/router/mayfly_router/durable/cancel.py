"""A durable call that is taken back before it has started.

It may wait in four places: here for a slot, in the stream of schedules for its time, in its stream for its turn, or
between two of them. Each is asked in the order in which calls move, so that one that moves meanwhile is met.
"""

from contextlib import suppress

import msgspec
import structlog

from mayfly_chassis import jetstream
from mayfly_chassis.bus import Bus
from mayfly_chassis.errors import BusError, JetStreamError
from mayfly_chassis.jetstream import Stored
from mayfly_proto import headers, results, storage, subjects
from mayfly_router.durable import settle
from mayfly_router.durable.delivery import Delivery
from mayfly_router.durable.durable import Durable, Started
from mayfly_router.durable.source import Source
from mayfly_router.function import Function
from mayfly_router.orders import Background

_NOT_THERE = frozenset({10037, 10043, 10057})  # message not found, sequence out of range or deleted

_log = structlog.get_logger()


class Answer(msgspec.Struct, frozen=True):
    cancelled: bool
    reason: str = ""


class Cancel:
    def __init__(self, bus: Bus, durable: Durable, background: Background) -> None:
        self._bus = bus
        self._durable = durable
        self._background = background

    def on_cancel(self, function: Function, _subject: bytes, reply: bytes, _raw: bytes | None, payload: bytes) -> None:
        """``mayfly.cancel.<function>``: the payload is the invocation's id."""
        invocation = payload.decode("utf-8", "replace")
        self._background(f"cancel {invocation}", self._answer(function, invocation, reply))

    async def _answer(self, function: Function, invocation: str, reply: bytes) -> None:
        try:
            answer = await self._cancel(function, invocation)
        except Started:
            answer = Answer(False, f"{invocation} has started")
        except BusError as error:
            answer = Answer(False, f"NATS does not answer: {error}")
        _log.info("call.cancel", function=function.name, invocation=invocation, cancelled=answer.cancelled)
        if reply:
            with suppress(BusError):
                self._bus.publish(reply, msgspec.json.encode(answer))

    async def _cancel(self, function: Function, invocation: str) -> Answer:
        if self._take_back(function, invocation):
            return Answer(True)
        scheduled = await self._unschedule(function.name, invocation)
        if scheduled is not None or await self._remove(invocation):
            if not self._take_back(function, invocation):  # else it had come here meanwhile
                await self._record(function, invocation, scheduled)
            return Answer(True)
        return Answer(False, f"{invocation} is over, or there is no such call")

    def _take_back(self, function: Function, invocation: str) -> bool:
        delivery = self._durable.waiting(function, invocation)
        if delivery is not None:
            self._durable.cancel(function, delivery)
        return delivery is not None

    async def _unschedule(self, function: str, invocation: str) -> Stored | None:
        """What it was, if it waited for its time."""
        subject = subjects.schedule(function, invocation)
        found = (await jetstream.newest(self._bus, storage.SCHEDULES, [subject])).get(subject)
        answer = await jetstream.api(self._bus, subjects.stream_purge(storage.SCHEDULES), {"filter": subject})
        return found if answer.get("purged") else None

    async def _remove(self, invocation: str) -> bool:
        number = _number(invocation)
        if not number:
            return False
        try:
            request = {"seq": number, "no_erase": True}
            answer = await jetstream.api(self._bus, subjects.message_delete(storage.ASYNC), request)
        except JetStreamError as error:
            if error.code in _NOT_THERE:
                return False
            raise
        return bool(answer.get("success"))

    async def _record(self, function: Function, invocation: str, scheduled: Stored | None) -> None:
        """Its last word. One that has been tried has a claim to its key; the next one with that is the first now."""
        delivery = Delivery(Source(function.name, storage.ASYNC, ""), b"", 0, _number(invocation), 0.0)
        delivery.invocation = invocation
        if scheduled is not None and scheduled.headers:
            delivery.headers = scheduled.headers
            delivery.attempt = int(headers.find(scheduled.headers, headers.ATTEMPT.encode()) or 1)
        delivery.claimed = delivery.attempt > 1
        spec = function.current.spec if function.current is not None else None
        for write in settle.cancelled(delivery, spec).writes:
            await jetstream.publish(self._bus, write.subject, write.payload, headers=write.headers)


def _number(invocation: str) -> int:
    """Of a durable call in its stream; 0 for anything else."""
    if not results.ID.fullmatch(invocation) or not invocation.startswith(storage.ID_LETTERS[storage.ASYNC]):
        return 0
    return int(invocation[1:])
