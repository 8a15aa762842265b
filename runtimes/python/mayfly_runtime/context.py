"""What a handler is told about its call, beside the event."""

import time
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from mayfly_runtime import asks, cloudevents, services
from mayfly_runtime.message import Item, Message, came_by_http, published_on


@dataclass(frozen=True, slots=True)
class Function:
    """What is the same for every call of an instance."""

    name: str
    version: str
    memory_mb: int
    payload: str  # how to read payloads: auto, json, text or bytes


@dataclass(frozen=True, slots=True)
class Host:
    """What every call of an instance has in common: its function, and the way to ask the node for something."""

    function: Function
    asker: asks.Asker


@dataclass(frozen=True, slots=True)
class Http:
    """The request, of a call that came by HTTP."""

    method: str
    path: str
    query: dict[str, str]
    params: dict[str, str]  # from the trigger's path template
    headers: dict[str, str]


class Context(Message):
    """AWS Lambda's names, and Mayfly's own."""

    __slots__ = ("_ends", "_host", "_number", "attempt", "batch", "cold", "invocation", "undecodable")

    CallError = asks.CallError

    batch: list[Item] | None
    undecodable: list[str]  # events of a batch that the handler does not get

    def __init__(
        self, host: Host, number: int, invocation: str, budget_ms: int, cold: bool, attempt: int, raw: bytes | None
    ) -> None:
        self._host = host
        self._number = number
        self._raw = raw
        self._headers = None
        self.batch = None
        self._ends = time.monotonic() + budget_ms / 1000
        self.invocation = invocation
        self.cold = cold
        self.attempt = attempt  # 1 for the first

    @property
    def deadline(self) -> float:
        """Seconds since 1970."""
        return time.time() + self._ends - time.monotonic()

    @property
    def aws_request_id(self) -> str:
        return self.invocation

    @property
    def function_name(self) -> str:
        return self._host.function.name

    @property
    def function_version(self) -> str:
        return self._host.function.version

    @property
    def memory_limit_in_mb(self) -> int:
        return self._host.function.memory_mb

    def get_remaining_time_in_millis(self) -> int:
        return max(0, int((self._ends - time.monotonic()) * 1000))

    @property
    def http(self) -> Http | None:
        """None for a call that did not come by HTTP."""
        if not came_by_http(self._raw):
            return None
        method, _, target = self.headers["Mayfly-Http"].partition(" ")
        url = urllib.parse.urlsplit(target)
        own = {name: value for name, value in self.headers.items() if not name.startswith("Mayfly-")}
        params = _pairs(self.headers.get("Mayfly-Http-Route", ""))
        return Http(method, urllib.parse.unquote(url.path), _pairs(url.query), params, own)

    @property
    def event(self) -> cloudevents.Event | None:
        """None for a call that is no event."""
        return self.describe(self.invocation, published_on(self.headers))

    def publish(
        self,
        subject: str,
        payload: Any = None,
        headers: Mapping[str, str] | None = None,
        *,
        message_id: str | None = None,
    ) -> Any:
        return self._run(services.publish(subject, payload, self._passed_on(headers), message_id))

    def call(
        self, function: str, event: Any = None, timeout: float | None = None, headers: Mapping[str, str] | None = None
    ) -> Any:
        return self._run(services.call(function, event, self._passed_on(headers), timeout))

    def kv(self, bucket: str) -> services.Kv:
        return services.Kv(bucket, self._run)

    def objects(self, bucket: str) -> services.Objects:
        return services.Objects(bucket, self._run)

    @property
    def _run(self) -> services.Run:
        return partial(self._host.asker.run, self._number)

    def _passed_on(self, own: Mapping[str, str] | None) -> dict[str, str]:
        """The node adds what the event has in its headers, but does not see what is in an envelope."""
        given = dict(own or {})
        names = {str(name).lower() for name in given}
        inherited = cloudevents.to_headers(getattr(self, "envelope", {}))
        return {name: value for name, value in inherited.items() if name not in names} | given

    def __getattr__(self, name: str) -> Any:
        names = ", ".join(known for known in dir(Context) if not known.startswith("_"))
        raise AttributeError(f"the context has no {name!r}; it has {names}")


def _pairs(query: str) -> dict[str, str]:
    return dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
