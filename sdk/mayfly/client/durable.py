"""What is kept until it is done: durable calls and events."""

import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from mayfly.client.connection import COMPONENT, Connection
from mayfly.client.payload import Result, encode
from mayfly_chassis import durable, outcomes
from mayfly_proto import api, errors, headers, names, results, states, storage, subjects
from mayfly_proto.errors import CallError, ErrorType

_STORE_S = 10.0  # for a stream to acknowledge, over a restart of NATS


class NoResultYet(Exception):
    """A durable call that has not come to its end. ``state`` says where it is: pending, scheduled, retrying."""

    def __init__(self, identity: str, state: str) -> None:
        super().__init__(f"{identity} has no result yet: it is {state}")
        self.invocation = identity
        self.state = state


class Durable(Connection):
    async def invoke_async(
        self,
        function: str,
        event: Any = None,
        *,
        delay_s: float | None = None,
        at: datetime | str | None = None,
        idempotency_key: str | None = None,
        content_type: str | None = None,
    ) -> str:
        """Have the function called for certain, at once or later; returns the call's id, such as ``A17``.

        ``at`` may be RFC 3339; a datetime without a zone is this machine's. The event is sent as by `invoke`. Raises
        `CallError` when it is not accepted; a name that no function has is not noticed here: such a call becomes a
        dead letter.
        """
        if delay_s is not None and at is not None:
            raise ValueError("delay_s and at: give one of them")
        payload, implied_type = encode(event)
        given = {
            headers.CONTENT_TYPE: content_type or implied_type,
            headers.DELAY: None if delay_s is None else f"{delay_s:.3f}",
            headers.AT: at.astimezone().isoformat() if isinstance(at, datetime) else at,
            headers.IDEMPOTENCY_KEY: idempotency_key,
        }
        fields = {name: value for name, value in given.items() if value is not None}
        sequence = await self._store(subjects.async_call(names.check_function(function)), payload, fields)
        return storage.invocation_id(storage.ASYNC, sequence)

    async def publish(
        self,
        subject: str,
        event: Any = None,
        *,
        message_id: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> str:
        """Publish an event for every function that it triggers; returns its id, such as ``E17``.

        ``subject`` is as triggers have it, ``orders.created``; a leading ``event.`` may be there. Published again with
        the same ``message_id`` it is kept once. Raises `CallError` when it is not stored, or nobody knows.
        """
        payload, kind = encode(event)
        name = names.check_event(subject.removeprefix(subjects.event("")))
        fields = _typed(kind) | dict(headers or {})
        sequence = await self._store(subjects.event(name), payload, fields, message_id)
        return storage.invocation_id(storage.EVENTS, sequence)

    async def result(self, identity: str, *, wait_s: float = 0.0) -> Result:
        """Of a durable call. Raises `CallError` when it failed, was cancelled or is not known, else `NoResultYet`."""
        self._check_operator()

        async def ask() -> api.Invocation:
            wanted = api.InvocationRequest(id=identity)
            return await self._ask(api.GET, wanted, api.Invocation, resource=api.INVOCATION)

        known = await ask()
        if wait_s > 0 and not results.is_final(known):
            known = await outcomes.wait(self._bus, identity, ask, wait_s)
        known = await outcomes.complete(self._bus, known)
        if known.state == states.Invocation.SUCCEEDED.value:
            fields = _typed(known.content_type) | {headers.INVOCATION: identity}
            return Result(known.payload or b"", fields)
        if known.error is not None and known.state == states.Invocation.FAILED.value:
            raise errors.from_detail(known.error)
        if results.is_final(known):
            raise CallError(ErrorType.CONFLICT, f"{identity} is {known.state}", component=COMPONENT)
        raise NoResultYet(identity, known.state)

    async def cancel(self, identity: str) -> api.Invocation:
        """Take back a durable call that has not started. Raises `CallError` (conflict) when it has, or is over."""
        wanted = api.InvocationRequest(id=identity)
        return await self._ask(api.CANCEL, wanted, api.Invocation, resource=api.INVOCATION)

    async def _store(
        self, subject: str, payload: bytes, fields: Mapping[str, str], message_id: str | None = None
    ) -> int:
        block = headers.block({headers.MESSAGE_ID: message_id or uuid.uuid4().hex, **fields})
        return await durable.accept(self._bus, subject, payload, headers=block, wait_s=_STORE_S, component=COMPONENT)


def _typed(kind: str | None) -> dict[str, str]:
    return {headers.CONTENT_TYPE: kind} if kind else {}
