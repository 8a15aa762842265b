"""What a handler is told about its call, beside the event."""

import time
import urllib.parse
from dataclasses import dataclass
from typing import Any

_HTTP = b"\r\nMayfly-Http:"


@dataclass(frozen=True, slots=True)
class Function:
    """What is the same for every call of an instance."""

    name: str
    version: str
    memory_mb: int
    payload: str  # how to read payloads: auto, json, text or bytes


@dataclass(frozen=True, slots=True)
class Http:
    """The request, of a call that came by HTTP."""

    method: str
    path: str
    query: dict[str, str]
    params: dict[str, str]  # from the trigger's path template
    headers: dict[str, str]


class Context:
    """AWS Lambda's names, and Mayfly's own."""

    __slots__ = ("_ends", "_function", "_headers", "_raw", "attempt", "cold", "invocation")

    def __init__(
        self, function: Function, invocation: str, budget_ms: int, cold: bool, attempt: int, raw: bytes | None
    ) -> None:
        self._function = function
        self._raw = raw
        self._headers: dict[str, str] | None = None
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
        return self._function.name

    @property
    def function_version(self) -> str:
        return self._function.version

    @property
    def memory_limit_in_mb(self) -> int:
        return self._function.memory_mb

    def get_remaining_time_in_millis(self) -> int:
        return max(0, int((self._ends - time.monotonic()) * 1000))

    @property
    def headers(self) -> dict[str, str]:
        """The message's headers; of a name that comes twice, the last."""
        if self._headers is None:
            self._headers = parse_headers(self._raw)
        return self._headers

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

    def __getattr__(self, name: str) -> Any:
        names = ", ".join(known for known in dir(Context) if not known.startswith("_"))
        raise AttributeError(f"the context has no {name!r}; it has {names}")


def _pairs(query: str) -> dict[str, str]:
    return dict(urllib.parse.parse_qsl(query, keep_blank_values=True))


def came_by_http(raw: bytes | None) -> bool:
    return raw is not None and _HTTP in raw


def find_header(raw: bytes, name: bytes) -> str:
    """One value of a raw block without parsing the rest; names are matched whatever their case."""
    start = raw.lower().find(b"\r\n" + name.lower() + b":")
    if start < 0:
        return ""
    start += len(name) + 3
    return raw[start : raw.index(b"\r\n", start)].decode("utf-8", "replace").strip()


def parse_headers(raw: bytes | None) -> dict[str, str]:
    fields = {}
    for line in (raw or b"").split(b"\r\n")[1:]:
        name, colon, value = line.partition(b":")
        if colon:
            fields[name.decode("latin-1")] = value.strip().decode("utf-8", "replace")
    return fields
