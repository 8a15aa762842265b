"""The registry, and for what is about nodes the scaler, asked over NATS. Their JSON is passed on as it is: what they
say is what the API says."""

import secrets
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Annotated

import msgspec
from fastapi import Depends, Request

from mayfly_chassis.bus import Bus
from mayfly_chassis.errors import BusError, NoResponders, RequestTimeout
from mayfly_chassis.objects import ObjectStore
from mayfly_gateway.asgi import too_large
from mayfly_gateway.translation import COMPONENT
from mayfly_proto import api, errors, storage, subjects
from mayfly_proto.errors import CallError, ErrorType

PACKAGE_LIMIT = 50 << 20  # bytes of an upload

_TIMEOUT_S = 10.0
_DEPLOY_TIMEOUT_S = 60.0
_SLOW = frozenset((api.DEPLOY, api.CONFIGURE, api.ROLLBACK, api.DELETE, api.PAUSE, api.RESUME, api.REDRIVE, api.PURGE))


class Registry:
    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._incoming = ObjectStore(bus, storage.INCOMING)

    async def ask(self, verb: str, request: msgspec.Struct | None = None, *, resource: str = api.FUNCTION) -> bytes:
        """The reply's JSON. Raises CallError: the registry's own, or unavailable."""
        timeout_s = _DEPLOY_TIMEOUT_S if verb in _SLOW else _TIMEOUT_S
        payload = b"" if request is None else api.encode(request)
        try:
            reply = await self._bus.request(subjects.api(resource, verb), payload, timeout_s=timeout_s)
        except NoResponders:
            raise _unavailable(api.nobody(resource)) from None
        except RequestTimeout:
            raise _unavailable(f"the {api.service(resource)} did not answer in {timeout_s:g} s") from None
        error = errors.from_reply(reply.headers, reply.payload)
        if error is not None:
            raise error
        return reply.payload

    async def deploy_upload(
        self, request: api.DeployRequest, content: AsyncIterator[bytes], length: int | None
    ) -> bytes:
        """Deploy a package that is just arriving, of ``length`` bytes where the client says it."""
        if length is not None and length > PACKAGE_LIMIT:
            raise too_large(PACKAGE_LIMIT)
        name = secrets.token_hex(16)
        await self._incoming.put(name, _limited(content))
        try:
            return await self.ask(api.DEPLOY, msgspec.structs.replace(request, object=f"{storage.INCOMING}/{name}"))
        except BaseException:
            await self._discard(name)
            raise

    async def code(self, request: api.FunctionRequest) -> tuple[api.CodeReply, bytes]:
        """A version's package exactly as it was uploaded."""
        reply = api.decode(await self.ask(api.CODE, request), api.CodeReply)
        if reply.content is not None:
            return reply, reply.content
        return reply, await ObjectStore(self._bus, reply.bucket).get(reply.object, limit=PACKAGE_LIMIT)

    async def _discard(self, name: str) -> None:
        with suppress(BusError):  # the registry may have taken it away already; else it expires
            await self._incoming.delete(name)


async def _registry(request: Request) -> Registry:
    registry: Registry = request.app.state.registry
    return registry


Asked = Annotated[Registry, Depends(_registry)]


async def _limited(content: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    size = 0
    async for chunk in content:
        size += len(chunk)
        if size > PACKAGE_LIMIT:
            raise too_large(PACKAGE_LIMIT)
        yield chunk


def _unavailable(message: str) -> CallError:
    return CallError(ErrorType.UNAVAILABLE, message, component=COMPONENT, retry_after_s=1)
