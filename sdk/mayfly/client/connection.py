"""A client's connection to NATS, and how it asks the registry or the scaler."""

import os
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import msgspec

from mayfly import platform_file
from mayfly_chassis.bus import Bus
from mayfly_chassis.errors import NoResponders, RequestTimeout
from mayfly_proto import api, errors, subjects
from mayfly_proto.errors import CallError, ErrorType

T = TypeVar("T")

COMPONENT = "client"
OPERATOR = "operator"
MANAGEMENT_TIMEOUT_S = 60.0

_DEFAULT_DATA = ".mayfly"
_CLIENT = "client"


class Connection:
    """``data``: a platform's data directory. ``nats``: a server's address instead, with ``user`` and ``password``, and
    ``ca_file`` for a ``tls://`` address whose certificate somebody of your own has signed.

    To be entered with ``async with``, which raises `platform_file.PlatformNotFound` and `BusError`.
    """

    def __init__(
        self,
        data: str | os.PathLike[str] | None = None,
        *,
        nats: str | None = None,
        user: str | None = None,
        password: str | None = None,
        ca_file: str | os.PathLike[str] | None = None,
    ) -> None:
        self._data = data
        self._nats = nats
        self._user = user
        self._password = password
        self._ca_file = None if ca_file is None else Path(ca_file)
        self._connection: Bus | None = None

    async def __aenter__(self) -> Self:
        url, user, password = self._nats, self._user, self._password
        if url is None:
            platform = platform_file.read(Path(self._data or os.environ.get("MAYFLY_DATA") or _DEFAULT_DATA))
            url, user, password = platform.nats, platform.user, platform.password
        self._user = user
        self._connection = await Bus.connect(
            url,
            name="mayfly-client",
            role=user or _CLIENT,
            user=user,
            password=password,
            ca_file=self._ca_file,
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

    def _check_operator(self) -> None:
        """NATS would not answer a publish that it forbids; this says why."""
        if self._user != OPERATOR:
            message = "this is the operator's: give the platform's data directory, or its NATS user"
            raise CallError(ErrorType.FORBIDDEN, message, component=COMPONENT)

    async def _ask(
        self, verb: str, request: msgspec.Struct | None, kind: type[T], *, resource: str = api.FUNCTION
    ) -> T:
        self._check_operator()
        body = b"" if request is None else msgspec.json.encode(request)
        try:
            reply = await self._bus.request(subjects.api(resource, verb), body, timeout_s=MANAGEMENT_TIMEOUT_S)
        except NoResponders:
            raise CallError(ErrorType.UNAVAILABLE, api.nobody(resource), component=COMPONENT) from None
        except RequestTimeout:
            raise late(f"the {api.service(resource)} did not answer in {MANAGEMENT_TIMEOUT_S:g} s") from None
        if (error := errors.from_reply(reply.headers, reply.payload)) is not None:
            raise error
        return msgspec.json.decode(reply.payload, type=kind)


def late(message: str) -> CallError:
    return CallError(ErrorType.DEADLINE_EXCEEDED, message, component=COMPONENT)
