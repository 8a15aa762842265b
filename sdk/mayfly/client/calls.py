"""Calls that are waited for."""

import asyncio
from collections.abc import Mapping
from typing import Any

from mayfly.client.connection import COMPONENT, OPERATOR, Connection, late
from mayfly.client.payload import Result, encode
from mayfly_chassis.bus import Reply
from mayfly_chassis.errors import MessageTooLarge, NoResponders, RequestTimeout
from mayfly_proto import api, errors, headers, names, subjects
from mayfly_proto.errors import CallError, ErrorType

_GRACE_S = 2.0  # after a call's deadline, for its answer to come back
_RETRY_S = 0.1
_MOVE_S = 2.0  # a function that changes its owner is back within this


class Calls(Connection):
    async def invoke(
        self,
        function: str,
        event: Any = None,
        *,
        timeout_s: float = 30.0,
        content_type: str | None = None,
        extra_headers: Mapping[str, str] | None = None,
    ) -> Result:
        """Call ``hello``, or one version of it: ``hello@3``.

        bytes and str are sent as they are, None as an empty event, anything else as JSON. The call ends, waiting and
        running, within ``timeout_s``. Raises `CallError` for whatever is not a result; ``error.kind`` says what.
        """
        name, version = names.parse_target(function)
        payload, implied_type = encode(event)
        kind = content_type or implied_type
        fields = {headers.TIMEOUT_MS: str(round(timeout_s * 1000)), **(extra_headers or {})}
        block = headers.block(fields | ({headers.CONTENT_TYPE: kind} if kind else {}))
        reply = await self._call(name, version, payload, block, timeout_s)
        if (error := errors.from_reply(reply.headers, reply.payload)) is not None:
            raise error
        return Result(reply.payload, headers.parse(reply.headers))

    async def _call(self, name: str, version: int | None, payload: bytes, block: bytes, timeout_s: float) -> Reply:
        """Nobody listens when there is no such function, and for a moment when its owner changes."""
        loop, subject = asyncio.get_running_loop(), subjects.call(name, version)
        started = loop.time()
        while True:
            left_s = started + timeout_s - loop.time()
            try:
                return await self._bus.request(subject, payload, headers=block, timeout_s=left_s + _GRACE_S)
            except NoResponders:
                if left_s < _RETRY_S or not await self._may_exist(name, version, waited_s=timeout_s - left_s):
                    raise _gone(name, left_s) from None
            except RequestTimeout:
                raise late(f"no answer from {name} in {timeout_s:g} s") from None
            except MessageTooLarge as error:
                raise CallError(ErrorType.TOO_LARGE, str(error), component=COMPONENT) from None
            await asyncio.sleep(_RETRY_S)

    async def _may_exist(self, name: str, version: int | None, *, waited_s: float) -> bool:
        if self._user != OPERATOR:
            return waited_s < _MOVE_S
        try:
            found = await self._ask(api.DESCRIBE, api.FunctionRequest(name=name), api.FunctionDescription)
        except CallError as error:
            return error.kind is not ErrorType.NOT_FOUND
        return version is None or version in found.versions


def _gone(name: str, left_s: float) -> CallError:
    if left_s < _RETRY_S:
        return late(f"nobody took the call of {name} before its deadline")
    return CallError(ErrorType.NOT_FOUND, f"there is no function {name}", component=COMPONENT)
