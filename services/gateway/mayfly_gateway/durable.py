"""``/async-function`` and ``/event``: what is answered 202 is in its stream, and nothing else is."""

import asyncio
import json
import uuid

from mayfly_chassis import durable
from mayfly_chassis.bus import Bus
from mayfly_gateway import messages, translation
from mayfly_gateway.asgi import Receive, Scope, read_body
from mayfly_gateway.calls import Calls
from mayfly_gateway.cloud_events import Event
from mayfly_gateway.translation import COMPONENT, Response
from mayfly_proto import headers, states, storage, subjects
from mayfly_proto.errors import CallError, ErrorType

INVOCATIONS = "/api/v1/invocations/"

_EVENTS_AT_ONCE = 256


class Durable:
    """Methods raise CallError."""

    def __init__(self, bus: Bus, calls: Calls, store_timeout_s: float) -> None:
        self._bus = bus
        self._calls = calls
        self._wait_s = store_timeout_s

    async def call(self, name: str, scope: Scope, receive: Receive) -> Response:
        """A durable call of the function's version that is current when it runs."""
        target = await self._calls.find(name)
        if "@" in target.name:
            message = f"{name}: a durable call runs the version that is current then; leave out @ and what follows"
            raise CallError(ErrorType.BAD_REQUEST, message, component=COMPONENT)
        query: bytes = scope["query_string"]
        address = scope["raw_path"] + b"?" + query if query else scope["raw_path"]
        kept = [field for field in scope["headers"] if field[0] not in messages.CREDENTIALS]
        request = translation.request(scope["method"], address, kept)
        message_id = messages.call_id(target.name, scope["headers"]) or uuid.uuid4().hex
        ours = {headers.MESSAGE_ID: message_id} | messages.later(scope["headers"])
        payload = await read_body(receive, request.length, self._bus.payload_limit)
        block = headers.added(request.block, ours)
        sequence = await self._store(subjects.async_call(target.name), payload, block)
        identity = storage.invocation_id(storage.ASYNC, sequence)
        state = states.Invocation.PENDING.value
        return _accepted(
            {"id": identity, "function": target.name, "state": state},
            (b"location", f"{INVOCATIONS}{identity}".encode()),
            (headers.INVOCATION.lower().encode(), identity.encode()),
        )

    async def event(self, path: str, scope: Scope, receive: Receive) -> Response:
        """One event, or a batch of CloudEvents: all are stored, or the error says which are."""
        subject = messages.event_subject(path)
        given = messages.given(scope["headers"])
        body = await read_body(receive, given.length, self._bus.payload_limit)
        batched = given.media_type == messages.BATCHED
        told = []
        for index, event in enumerate(messages.events(given, body)):
            number = index if batched else None
            message_id = messages.event_id(subject, event, given.message_id, number) or uuid.uuid4().hex
            told.append((event, messages.event_block(event, message_id)))
        if not batched:
            ((event, block),) = told
            return _accepted(_row(subject, await self._store(subject, event.payload, block)))
        return _accepted({"events": [_row(subject, sequence) for sequence in await self._store_all(subject, told)]})

    async def _store_all(self, subject: str, told: list[tuple[Event, bytes]]) -> list[int]:
        """In the order of the batch, which ends where one cannot be stored."""
        results: list[int | BaseException] = []
        for start in range(0, len(told), _EVENTS_AT_ONCE):
            some = told[start : start + _EVENTS_AT_ONCE]
            stores = (self._store(subject, event.payload, block) for event, block in some)
            results += await asyncio.gather(*stores, return_exceptions=True)
            if any(isinstance(result, BaseException) for result in results):
                break
        stored = [result for result in results if isinstance(result, int)]
        failed = next((result for result in results if isinstance(result, BaseException)), None)
        if failed is None:
            return stored
        if not isinstance(failed, CallError):
            raise failed
        which = [index for index, result in enumerate(results) if isinstance(result, int)]
        message = f"{len(stored)} of {len(told)} events were stored{messages.listing(which)}: {failed.message}"
        raise CallError(failed.kind, message, component=COMPONENT, retry_after_s=failed.retry_after_s)

    async def _store(self, subject: str, payload: bytes, block: bytes) -> int:
        return await durable.accept(
            self._bus, subject, payload, headers=block, wait_s=self._wait_s, component=COMPONENT
        )


def _accepted(body: dict[str, object], *fields: translation.Field) -> Response:
    raw = json.dumps(body, separators=(",", ":")).encode()
    own = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(raw))]
    return Response(202, [*fields, *own], raw)


def _row(subject: str, sequence: int) -> dict[str, object]:
    return {"id": storage.invocation_id(storage.EVENTS, sequence), "subject": subject}
