"""What a handler gets beside its event, for type hints: ``def handler(event: dict, context: mayfly.Context)``,
or `AsyncContext` for an ``async def``.

The names of AWS Lambda's context are there too, so that a handler written for it runs unchanged.
"""

import builtins
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, Protocol


class Http(Protocol):
    """The request of a call that came by HTTP."""

    @property
    def method(self) -> str: ...

    @property
    def path(self) -> str: ...

    @property
    def query(self) -> Mapping[str, str]: ...

    @property
    def headers(self) -> Mapping[str, str]: ...

    @property
    def params(self) -> Mapping[str, str]:
        """What the trigger's path template names: ``/orders/{id}`` gives ``{"id": "7"}``."""


class Event(Protocol):
    """A CloudEvent's attributes, or their defaults for an event that was published without."""

    @property
    def id(self) -> str:
        """Default: the invocation's."""

    @property
    def source(self) -> str:
        """Default: ``nats``."""

    @property
    def type(self) -> str:
        """Default: the NATS subject; ``mayfly.schedule`` for a schedule's tick."""

    @property
    def specversion(self) -> str: ...

    @property
    def subject(self) -> str | None: ...

    @property
    def time(self) -> str | None:
        """RFC 3339."""

    @property
    def datacontenttype(self) -> str | None: ...

    @property
    def dataschema(self) -> str | None: ...

    @property
    def nats_subject(self) -> str | None:
        """Where it was published. None for a call."""

    @property
    def attributes(self) -> Mapping[str, str]:
        """Those that it came with, extensions too, without ``ce-``."""


class BatchItem(Protocol):
    """One event of a batch; its place in `Call.batch` is its place in the handler's list."""

    @property
    def id(self) -> str:
        """What ``{"batchItemFailures": [{"itemIdentifier": ...}]}`` may name it by; its place does as well."""

    @property
    def attempt(self) -> int: ...

    @property
    def headers(self) -> Mapping[str, str]: ...

    @property
    def event(self) -> Event | None: ...


class AskError(Exception):
    """What a handler asked for was refused, or failed. A handler knows it as ``context.CallError``."""

    type: str  # forbidden, not_found, conflict, loop, too_large, deadline_exceeded, unavailable ...
    code: int
    message: str


class Call(Protocol):
    """What plain and coroutine handlers have in common."""

    @property
    def aws_request_id(self) -> str:
        """The same as `invocation`, under Lambda's name."""

    @property
    def function_name(self) -> str: ...

    @property
    def function_version(self) -> str: ...

    @property
    def memory_limit_in_mb(self) -> int: ...

    def get_remaining_time_in_millis(self) -> int:
        """Until `deadline`, when this instance is killed and the caller is told that the function timed out."""

    @property
    def invocation(self) -> str:
        """The id of this call: in the caller's reply, in every log line, in every error."""

    @property
    def deadline(self) -> float:
        """Unix time in seconds."""

    @property
    def headers(self) -> Mapping[str, str]:
        """The caller's message headers."""

    @property
    def attempt(self) -> int:
        """1 for the first; above for a call that is run again."""

    @property
    def cold(self) -> bool:
        """Whether this is the instance's first call."""

    @property
    def http(self) -> Http | None:
        """None for a call that did not come by HTTP."""

    @property
    def event(self) -> Event | None:
        """None for a call without CloudEvents attributes. The event is an envelope's data in structured mode."""

    @property
    def batch(self) -> Sequence[BatchItem] | None:
        """One for each event in the list of a batch function; None for any other."""

    @property
    def CallError(self) -> type[AskError]:
        """What all that asks the node raises: ``except context.CallError as error``."""


class KvEntry(Protocol):
    @property
    def value(self) -> bytes: ...

    @property
    def revision(self) -> int: ...


class ObjectInfo(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def size(self) -> int:
        """Bytes."""

    @property
    def digest(self) -> str:
        """``SHA-256=`` and base64url."""

    @property
    def modified(self) -> str:
        """RFC 3339."""


class Kv(Protocol):
    """Values are bytes: text is written as UTF-8, anything else as JSON. Writes return the revision; ``ttl`` is in
    seconds."""

    def get(self, key: str) -> bytes | None: ...

    def get_json(self, key: str) -> Any: ...

    def entry(self, key: str) -> KvEntry | None: ...

    def put(self, key: str, value: Any, ttl: float | None = None) -> int: ...

    def create(self, key: str, value: Any, ttl: float | None = None) -> int:
        """Raises ``conflict`` when the key has a value."""

    def update(self, key: str, value: Any, revision: int, ttl: float | None = None) -> int:
        """Raises ``conflict`` when the key is not at that revision."""

    def delete(self, key: str) -> None: ...

    def keys(self, prefix: str = "") -> list[str]:
        """In order; ``too_large`` above 10,000."""


class Objects(Protocol):
    """Whole objects, as large as the memory of the instance allows."""

    def get(self, name: str) -> bytes: ...

    def put(self, name: str, data: bytes | str) -> ObjectInfo: ...

    def info(self, name: str) -> ObjectInfo | None: ...

    def list(self) -> builtins.list[str]:
        """``too_large`` above 10,000."""

    def delete(self, name: str) -> None: ...


class Context(Call, Protocol):
    """The context of ``def handler(event, context)``. Threads of it may ask, too, one after another."""

    def publish(
        self,
        subject: str,
        payload: Any = None,
        headers: Mapping[str, str] | None = None,
        *,
        message_id: str | None = None,
    ) -> str | None:
        """Publish to a subject that the manifest's ``publish`` covers; the payload is encoded as a result would be.

        Below ``event.`` it is durable: the id is returned when the stream has it. Elsewhere it is gone at once, nobody
        says whether anyone heard, and None is returned. Of two with one ``message_id`` the stream keeps the first.
        It carries on the CloudEvents attributes of the event that is being handled, but for those in ``headers``."""

    def call(
        self, function: str, event: Any = None, timeout: float | None = None, headers: Mapping[str, str] | None = None
    ) -> Any:
        """The result of a function (``name`` or ``name@version``) that the manifest's ``call`` covers.

        ``timeout`` in seconds; never more than this call has left. At most once, as every call. Raises what it
        answered, or ``not_found`` when nobody does."""

    def kv(self, bucket: str) -> Kv:
        """A KV bucket that the manifest's ``kv`` names."""

    def objects(self, bucket: str) -> Objects:
        """An object store that the manifest's ``objects`` names."""


class AsyncKv(Protocol):
    """`Kv`, to be awaited."""

    def get(self, key: str) -> Awaitable[bytes | None]: ...

    def get_json(self, key: str) -> Awaitable[Any]: ...

    def entry(self, key: str) -> Awaitable[KvEntry | None]: ...

    def put(self, key: str, value: Any, ttl: float | None = None) -> Awaitable[int]: ...

    def create(self, key: str, value: Any, ttl: float | None = None) -> Awaitable[int]:
        """Raises ``conflict`` when the key has a value."""

    def update(self, key: str, value: Any, revision: int, ttl: float | None = None) -> Awaitable[int]:
        """Raises ``conflict`` when the key is not at that revision."""

    def delete(self, key: str) -> Awaitable[None]: ...

    def keys(self, prefix: str = "") -> Awaitable[list[str]]:
        """In order; ``too_large`` above 10,000."""


class AsyncObjects(Protocol):
    """`Objects`, to be awaited."""

    def get(self, name: str) -> Awaitable[bytes]: ...

    def put(self, name: str, data: bytes | str) -> Awaitable[ObjectInfo]: ...

    def info(self, name: str) -> Awaitable[ObjectInfo | None]: ...

    def list(self) -> Awaitable[builtins.list[str]]:
        """``too_large`` above 10,000."""

    def delete(self, name: str) -> Awaitable[None]: ...


class AsyncContext(Call, Protocol):
    """The context of ``async def handler(event, context)``: 64 asks at a time, more of them wait."""

    def publish(
        self,
        subject: str,
        payload: Any = None,
        headers: Mapping[str, str] | None = None,
        *,
        message_id: str | None = None,
    ) -> Awaitable[str | None]:
        """Publish to a subject that the manifest's ``publish`` covers; the payload is encoded as a result would be.

        Below ``event.`` it is durable: the id is returned when the stream has it. Elsewhere it is gone at once, nobody
        says whether anyone heard, and None is returned. Of two with one ``message_id`` the stream keeps the first.
        It carries on the CloudEvents attributes of the event that is being handled, but for those in ``headers``."""

    def call(
        self, function: str, event: Any = None, timeout: float | None = None, headers: Mapping[str, str] | None = None
    ) -> Awaitable[Any]:
        """The result of a function (``name`` or ``name@version``) that the manifest's ``call`` covers.

        ``timeout`` in seconds; never more than this call has left. At most once, as every call. Raises what it
        answered, or ``not_found`` when nobody does."""

    def kv(self, bucket: str) -> AsyncKv:
        """A KV bucket that the manifest's ``kv`` names."""

    def objects(self, bucket: str) -> AsyncObjects:
        """An object store that the manifest's ``objects`` names."""
