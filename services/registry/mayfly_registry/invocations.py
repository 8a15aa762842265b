"""The resource `invocation`: what is known of a durable call, and taking one back that has not started."""

from datetime import UTC, datetime

import msgspec

from mayfly_chassis import jetstream
from mayfly_chassis.bus import Bus
from mayfly_chassis.errors import NoResponders
from mayfly_chassis.history import History
from mayfly_proto import api, results, states, storage, subjects
from mayfly_registry.errors import Conflict, InvalidRequest, NotFound, NotRoutable

_CANCEL_S = 5.0

_LETTER = storage.ID_LETTERS[storage.ASYNC]


class _Cancelled(msgspec.Struct):
    """The owning router's answer."""

    cancelled: bool
    reason: str = ""


class Invocations:
    """Each verb raises `Refusal` or `BusError`."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._payload_limit = bus.payload_limit * 2 // 3  # base64 in the reply

    async def get(self, request: api.InvocationRequest) -> api.Invocation:
        if not results.ID.fullmatch(request.id):
            raise InvalidRequest(f"id: {request.id[:40]!r} is none: it is {results.ID_RULE}")
        # Its result is written before it leaves ASYNC: one that is in neither has come to its end between two looks.
        found = await self._result(request.id) or await self._pending(request.id) or await self._result(request.id)
        if found is None:
            raise NotFound(f"nothing is known of {request.id}: durable calls are, until a day after they are done")
        return found

    async def cancel(self, request: api.InvocationRequest) -> api.Invocation:
        found = await self.get(request)
        if results.is_final(found):
            raise Conflict(f"{found.id} is over: it is {found.state}")
        try:
            reply = await self._bus.request(subjects.cancel(found.function), found.id.encode(), timeout_s=_CANCEL_S)
        except NoResponders:
            raise NotRoutable(f"{found.id} is not cancelled: no router owns {found.function} now") from None
        answer = msgspec.json.decode(reply.payload, type=_Cancelled)
        if not answer.cancelled:
            raise Conflict(f"{found.id} cannot be cancelled: {answer.reason or 'it has started'}")
        now = results.rfc3339(datetime.now(UTC))
        return msgspec.structs.replace(found, state=states.Invocation.CANCELLED.value, time=now, error=None)

    async def _result(self, identity: str) -> api.Invocation | None:
        message = await History(self._bus, storage.RESULTS, subjects.results_of(identity)).newest()
        if message is None:
            return None
        found = results.invocation(message.subject, message.headers, message.payload, message.time)
        return found if found.size <= self._payload_limit else msgspec.structs.replace(found, payload=None)

    async def _pending(self, identity: str) -> api.Invocation | None:
        if not identity.startswith(_LETTER):
            return None
        message = await jetstream.at(self._bus, storage.ASYNC, int(identity.removeprefix(_LETTER)))
        if message is None:
            return None
        return api.Invocation(
            id=identity,
            function=results.function_of(message.subject),
            state=states.Invocation.PENDING.value,
            time=results.rfc3339(message.time),
        )
