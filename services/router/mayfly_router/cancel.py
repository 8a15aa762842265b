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
from mayfly_proto import headers, results, storage, subjects
from mayfly_router import claims, settle
from mayfly_router.claims import Claims
from mayfly_router.delivery import Delivery
from mayfly_router.durable import Durable, Started
from mayfly_router.function import Function
from mayfly_router.orders import Background
from mayfly_router.source import Source

_NOT_THERE = frozenset({10037, 10043, 10057})  # message not found, sequence out of range or deleted

_KEY = headers.IDEMPOTENCY_KEY.encode()

_log = structlog.get_logger()


class Answer(msgspec.Struct, frozen=True):
    cancelled: bool
    reason: str = ""


class Cancel:
    def __init__(self, bus: Bus, durable: Durable, found: Claims, background: Background) -> None:
        self._bus = bus
        self._claims = found
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
        raw = await self._headers(function.name, invocation)
        if not self._take_back(function, invocation):
            if not await self._unschedule(function.name, invocation) and not await self._remove(invocation):
                return Answer(False, f"{invocation} is over, or there is no such call")
            if not self._take_back(function, invocation):  # else it had come here meanwhile
                await self._record(function.name, invocation)
        if raw and (key := headers.find(raw, _KEY)):
            await self._claims.let_go(claims.key(function.name, key.decode("utf-8", "replace")), invocation)
        return Answer(True)

    def _take_back(self, function: Function, invocation: str) -> bool:
        delivery = self._durable.waiting(function, invocation)
        if delivery is not None:
            self._durable.cancel(function, delivery)
        return delivery is not None

    async def _headers(self, function: str, invocation: str) -> bytes | None:
        """Of the call, where it lies: in its stream, or as a schedule."""
        number = _number(invocation)
        message = await jetstream.at(self._bus, storage.ASYNC, number) if number else None
        if message is None:
            subject = subjects.schedule(function, invocation)
            message = await jetstream.first(self._bus, storage.SCHEDULES, subject)
        return None if message is None else message.headers

    async def _unschedule(self, function: str, invocation: str) -> bool:
        request = {"filter": subjects.schedule(function, invocation)}
        answer = await jetstream.api(self._bus, subjects.stream_purge(storage.SCHEDULES), request)
        return bool(answer.get("purged"))

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

    async def _record(self, function: str, invocation: str) -> None:
        """Its last word."""
        delivery = Delivery(Source(function, storage.ASYNC, ""), b"", 0, _number(invocation), 0.0)
        delivery.invocation = invocation
        for write in settle.cancelled(delivery).writes:
            await jetstream.publish(self._bus, write.subject, write.payload, headers=write.headers)


def _number(invocation: str) -> int:
    """Of a durable call in its stream; 0 for anything else."""
    if not results.ID.fullmatch(invocation) or not invocation.startswith(storage.ID_LETTERS[storage.ASYNC]):
        return 0
    return int(invocation[1:])
