"""Mayfly from a Python program: functions are called, and managed, over NATS.

    async with mayfly.Client() as client:                       # the platform in ./.mayfly
        result = await client.invoke("hello", {"name": "Ada"})
        print(result.value)

Given a platform's data directory (or nothing: ``MAYFLY_DATA``, else ``.mayfly``) the client is the platform's
operator. Given only the address of a NATS server it is anonymous, and may call functions and nothing else.
"""

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from uuid import uuid4

import msgspec

from mayfly import platform_file
from mayfly.project import Source, from_bytes, from_path
from mayfly_chassis import jetstream
from mayfly_chassis.bus import Bus, Reply
from mayfly_chassis.errors import MessageTooLarge, NoResponders, RequestTimeout
from mayfly_chassis.objects import ObjectStore
from mayfly_proto import api, errors, headers, names, storage, subjects
from mayfly_proto.errors import CallError, ErrorType
from mayfly_proto.records import LogLine

T = TypeVar("T")

COMPONENT = "client"
MANAGEMENT_TIMEOUT_S = 60.0

_DEFAULT_DATA = ".mayfly"
_OPERATOR = "operator"
_CLIENT = "client"
_GRACE_S = 2.0  # after a call's deadline, for its answer to come back
_RETRY_S = 0.1
_MOVE_S = 2.0  # a function that changes its owner is back within this


@dataclass(frozen=True, slots=True)
class Result:
    """What a function returned."""

    payload: bytes
    headers: Mapping[str, str]

    @property
    def value(self) -> Any:
        """Decoded by its content type: JSON, str for text, else bytes; None when it is empty."""
        kind = self.headers.get(headers.CONTENT_TYPE, "application/json").partition(";")[0].strip()
        if kind == "application/json" or kind.endswith("+json"):
            return msgspec.json.decode(self.payload) if self.payload else None
        return self.payload.decode() if kind.startswith("text/") else self.payload

    @property
    def invocation(self) -> str:
        return self.headers.get(headers.INVOCATION, "")

    @property
    def cold(self) -> bool:
        return self.headers.get(headers.START) == headers.COLD

    @property
    def version(self) -> int | None:
        """Of the function; said by cold calls only."""
        version = self.headers.get(headers.VERSION)
        return int(version) if version else None


class Client:
    """``data``: a platform's data directory. ``nats``: a server's address instead, with ``user`` and ``password``.

    To be entered with ``async with``, which raises `platform_file.PlatformNotFound` and `BusError`.
    """

    def __init__(
        self,
        data: str | os.PathLike[str] | None = None,
        *,
        nats: str | None = None,
        user: str | None = None,
        password: str | None = None,
    ) -> None:
        self._data = data
        self._nats = nats
        self._user = user
        self._password = password
        self._connection: Bus | None = None

    async def __aenter__(self) -> Self:
        url, user, password = self._nats, self._user, self._password
        if url is None:
            platform = platform_file.read(Path(self._data or os.environ.get("MAYFLY_DATA") or _DEFAULT_DATA))
            url, user, password = platform.nats, platform.user, platform.password
        self._user = user
        self._connection = await Bus.connect(
            url, name="mayfly-client", role=user or _CLIENT, user=user, password=password
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._bus.close()
        self._connection = None

    @property
    def _bus(self) -> Bus:
        if self._connection is None:
            raise RuntimeError("the client is not connected: use it in `async with mayfly.Client() as client:`")
        return self._connection

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
        payload, implied_type = _encode(event)
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
                raise _late(f"no answer from {name} in {timeout_s:g} s") from None
            except MessageTooLarge as error:
                raise CallError(ErrorType.TOO_LARGE, str(error), component=COMPONENT) from None
            await asyncio.sleep(_RETRY_S)

    async def _may_exist(self, name: str, version: int | None, *, waited_s: float) -> bool:
        if self._user != _OPERATOR:
            return waited_s < _MOVE_S
        try:
            found = await self.describe(name)
        except CallError as error:
            return error.kind is not ErrorType.NOT_FOUND
        return version is None or version in found.versions

    async def deploy(
        self, code: str | os.PathLike[str] | bytes, name: str | None = None, **settings: Any
    ) -> list[api.DeployReply]:
        """Deploy a .py file, a ZIP or a folder; with a ``mayfly.toml``, every function that it describes.

        ``code`` may also be the bytes of a file, which needs a ``name``. ``settings`` (memory, timeout, env ...) take
        precedence over the manifest's. Raises `CallError`, `NotPackable` and `OSError`.
        """
        if isinstance(code, bytes):
            sources = from_bytes(code, name or "", settings)
        else:
            sources = from_path(Path(code), name, settings)
        return [await self._deploy(source) for source in sources]

    async def _deploy(self, source: Source) -> api.DeployReply:
        self._check_operator()
        key = uuid4().hex
        await ObjectStore(self._bus, storage.INCOMING).put(key, source.content)
        request = api.DeployRequest(
            name=source.name,
            object=f"{storage.INCOMING}/{key}",
            filename=source.filename,
            settings=source.settings,
        )
        return await self._ask(api.DEPLOY, request, api.DeployReply)

    async def deploy_object(self, name: str, bucket: str, key: str, **settings: Any) -> api.DeployReply:
        """Deploy a ZIP or a .py that lies in an object store of NATS."""
        request = api.DeployRequest(name=name, object=f"{bucket}/{key}", filename=key, settings=settings or None)
        return await self._ask(api.DEPLOY, request, api.DeployReply)

    async def configure(self, name: str, **settings: Any) -> api.DeployReply:
        """Change settings without the code: a new version on the same package. None means the default."""
        return await self._ask(api.CONFIGURE, api.ConfigureRequest(name=name, settings=settings), api.DeployReply)

    async def describe(self, name: str, version: int | None = None) -> api.FunctionDescription:
        request = api.FunctionRequest(name=name, version=version)
        return await self._ask(api.DESCRIBE, request, api.FunctionDescription)

    async def versions(self, name: str) -> list[api.VersionSummary]:
        return await self._ask(api.VERSIONS, api.FunctionRequest(name=name), list[api.VersionSummary])

    async def rollback(self, name: str, version: int | None = None) -> api.DeployReply:
        """Make another version current; by default the one before."""
        return await self._ask(api.ROLLBACK, api.RollbackRequest(name=name, version=version), api.DeployReply)

    async def delete(self, name: str) -> api.DeleteReply:
        return await self._ask(api.DELETE, api.DeleteRequest(name=name), api.DeleteReply)

    async def logs(self, name: str, *, follow: bool = False) -> AsyncIterator[LogLine]:
        """What its instances wrote, oldest first; with ``follow``, then what they write from now on, for ever."""
        names.check_function(name)
        subject = subjects.logs_of(name)
        fresh: asyncio.Queue[bytes] = asyncio.Queue()
        subscription = await self._bus.subscribe(subject, lambda _s, _r, _h, payload: fresh.put_nowait(payload))
        try:
            await self._bus.flush()
            kept: list[bytes] = []
            await jetstream.every(self._bus, storage.LOGS, subject, lambda message: kept.append(message.payload))
            for line in kept:
                yield msgspec.json.decode(line, type=LogLine)
            both = Counter(kept)  # what came while the stream was read is in it, too
            while follow:
                line = await fresh.get()
                if both[line] > 0:
                    both[line] -= 1
                else:
                    yield msgspec.json.decode(line, type=LogLine)
        finally:
            await subscription.unsubscribe()

    def _check_operator(self) -> None:
        """NATS would not answer a publish that it forbids; this says why."""
        if self._user != _OPERATOR:
            message = "functions are managed by the operator: give the platform's data directory, or its NATS user"
            raise CallError(ErrorType.FORBIDDEN, message, component=COMPONENT)

    async def _ask(self, verb: str, request: msgspec.Struct | None, kind: type[T]) -> T:
        self._check_operator()
        body = b"" if request is None else msgspec.json.encode(request)
        try:
            reply = await self._bus.request(subjects.api(api.FUNCTION, verb), body, timeout_s=MANAGEMENT_TIMEOUT_S)
        except NoResponders:
            raise CallError(ErrorType.UNAVAILABLE, "no registry is running", component=COMPONENT) from None
        except RequestTimeout:
            raise _late(f"the registry did not answer in {MANAGEMENT_TIMEOUT_S:g} s") from None
        if (error := errors.from_reply(reply.headers, reply.payload)) is not None:
            raise error
        return msgspec.json.decode(reply.payload, type=kind)

    async def list(self) -> list[api.FunctionSummary]:
        return await self._ask(api.LIST, None, list[api.FunctionSummary])


def _encode(event: Any) -> tuple[bytes, str | None]:
    """The payload, and the content type where the function could not tell by itself."""
    if event is None:
        return b"", None
    if isinstance(event, bytes | bytearray | memoryview):
        return bytes(event), "application/octet-stream"
    if isinstance(event, str):
        return event.encode(), "text/plain"
    return msgspec.json.encode(event), "application/json"


def _gone(name: str, left_s: float) -> CallError:
    if left_s < _RETRY_S:
        return _late(f"nobody took the call of {name} before its deadline")
    return CallError(ErrorType.NOT_FOUND, f"there is no function {name}", component=COMPONENT)


def _late(message: str) -> CallError:
    return CallError(ErrorType.DEADLINE_EXCEEDED, message, component=COMPONENT)
