"""Durable calls to names that no function has: they end in the dead letters of that name, with the reason.

Each is published there, acknowledged, its result recorded as failed, then it is deleted. One that is stopped in between
is published again under the same message id, which the stream of dead letters drops.
"""

from datetime import datetime

import msgspec
import structlog

from mayfly_chassis import jetstream
from mayfly_chassis.bus import Bus
from mayfly_chassis.errors import JetStreamError
from mayfly_chassis.jetstream import Stored
from mayfly_proto import headers, names, results, states, storage, subjects
from mayfly_proto.errors import CallError, ErrorBody, ErrorType
from mayfly_registry.errors import COMPONENT
from mayfly_registry.store import Store

AT_ONCE = 500  # of one name, before it is looked up again

_NO_MESSAGE = 10_057
_KEPT = tuple(name.encode() for name in (headers.DEPTH, headers.IDEMPOTENCY_KEY))
_DROPPED = (b"Nats-", b"Mayfly-")
_REPLACED = "\ufffd"  # what the server has no letter for

_log = structlog.get_logger()


class UnknownCalls:
    def __init__(self, bus: Bus, store: Store) -> None:
        self._bus = bus
        self._store = store

    async def sweep(self, now: datetime) -> None:
        """Raises `BusError`; the next round goes on."""
        for subject in await jetstream.counts(self._bus, storage.ASYNC, subjects.ASYNC_CALLS):
            name = subject.removeprefix(subjects.async_call(""))
            if not name.isprintable() or _REPLACED in name:
                _log.warning("calls.unreadable", name=name)  # no client of ours can name it, and no function has it
                continue
            moved = 0
            while not await self._is_function(name) and (batch := await self._move(name, subject, now)):
                moved += batch
            if moved:
                _log.warning("calls.unknown", name=name, count=moved)

    async def _is_function(self, name: str) -> bool:
        return names.FUNCTION.fullmatch(name) is not None and await self._store.exists(name)

    async def _move(self, name: str, subject: str, now: datetime) -> int:
        sequence = 1
        for count in range(AT_ONCE):
            message = await jetstream.first(self._bus, storage.ASYNC, subject, sequence=sequence)
            if message is None:
                return count
            await self._give_up(name, message, now)
            sequence = message.sequence + 1
        return AT_ONCE

    async def _give_up(self, name: str, message: Stored, now: datetime) -> None:
        fields = dead_letter(name, message, now)
        await jetstream.publish(self._bus, subjects.dead_letter(name), message.payload, headers=fields)
        error = why(name, message)
        failed = error.headers({headers.STATE: states.Invocation.FAILED.value, headers.ATTEMPTS: "0"})
        await jetstream.publish(self._bus, subjects.result(error.invocation, name), error.body(), headers=failed)
        await self._delete(message.sequence)

    async def _delete(self, sequence: int) -> None:
        request = {"seq": sequence, "no_erase": True}
        try:
            await jetstream.api(self._bus, subjects.message_delete(storage.ASYNC), request)
        except JetStreamError as error:
            if error.code != _NO_MESSAGE:  # another registry was faster
                raise


def why(name: str, message: Stored) -> CallError:
    invocation = storage.invocation_id(storage.ASYNC, message.sequence)
    return CallError(ErrorType.NOT_FOUND, f"there is no function {name}", component=COMPONENT, invocation=invocation)


def dead_letter(name: str, message: Stored, now: datetime) -> bytes:
    """The header block of a dead letter: why, then what the caller sent with it."""
    error = why(name, message)
    detail = msgspec.json.decode(error.body(), type=ErrorBody).error
    first_ms = int(message.time.timestamp() * 1000)
    ours = headers.block(
        {
            headers.REASON: error.message,
            headers.ERROR: msgspec.json.encode(detail).decode(),
            headers.ATTEMPTS: "0",
            headers.FAILED_AT: results.rfc3339(now),
            headers.INVOCATION: error.invocation,
            headers.EVENT_SUBJECT: message.subject,
            headers.MESSAGE_ID: f"{name}.{error.invocation}.{first_ms}",
        }
    )
    lines = message.headers.split(b"\r\n")[1:]
    theirs = [line for line in lines if line and (line.startswith(_KEPT) or not line.startswith(_DROPPED))]
    return ours[:-2] + b"".join(line + b"\r\n" for line in theirs) + b"\r\n"
