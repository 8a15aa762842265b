"""The platform as commands see it: HTTP to its gateway, found by data directory or address."""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, urlencode, urlsplit

import click

from mayfly import platform_file
from mayfly.cli.failure import Exit, Failure, failure_of

if TYPE_CHECKING:
    from http.client import HTTPConnection, HTTPResponse

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_DATA = ".mayfly"
MANAGEMENT_TIMEOUT_S = 60.0

_MANAGEMENT = "/api/v1/"


def platform_option(command: F) -> F:
    """Adds ``--data DIR`` as the argument `data`."""
    return click.option(
        "--data",
        envvar="MAYFLY_DATA",
        metavar="DIR",
        help=f"The platform's data directory [default: {DEFAULT_DATA}]; or set MAYFLY_URL and MAYFLY_TOKEN.",
    )(command)


@dataclass(frozen=True, slots=True)
class Api:
    url: str
    token: str

    def get(self, path: str, **query: object) -> Any:
        return self.call("GET", path, query=query)

    def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, object] | None = None,
        body: object = None,
        raw: bytes | Iterable[bytes] | None = None,
        size: int | None = None,
        timeout_s: float = MANAGEMENT_TIMEOUT_S,
    ) -> Any:
        """Send ``body`` as JSON, or ``raw`` (of ``size`` bytes) as it is; return the decoded reply."""
        headers = {"Content-Type": "application/octet-stream" if raw is not None else "application/json"}
        if size is not None:
            headers["Content-Length"] = str(size)
        content = raw if raw is not None or body is None else json.dumps(body).encode()
        with self.send(method, f"{_MANAGEMENT}{path}", headers, content, query=query, timeout_s=timeout_s) as reply:
            text = reply.read()
        return json.loads(text) if text else None

    @contextmanager
    def send(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        content: bytes | Iterable[bytes] | None,
        *,
        query: Mapping[str, object] | None = None,
        timeout_s: float | None = MANAGEMENT_TIMEOUT_S,
        errors: bool = True,
    ) -> "Iterator[HTTPResponse]":
        """One exchange. An error of the platform is raised as `Failure`, unless ``errors`` is off."""
        from http.client import HTTPException  # a third of a command's start, which --help does not need

        given = {name: value for name, value in (query or {}).items() if value is not None}
        target = f"{path}?{urlencode(given, doseq=True)}" if given else path
        connection = self._connect(timeout_s)
        try:
            # Only management gets the token: a function sees all headers of its call.
            own = {"Authorization": f"Bearer {self.token}"} if self.token and path.startswith(_MANAGEMENT) else {}
            connection.request(method, target, content, {**headers, **own})
            reply = connection.getresponse()
            if errors and reply.status >= 400:
                body = reply.read()
                known = failure_of(reply.status, body, reply.headers.get("Retry-After"))
                raise known or Failure(f"{self.url} answered {reply.status}: {body[:200]!r}")
            yield reply
        except TimeoutError:
            raise Failure(f"{self.url} did not answer in {timeout_s:g} s", Exit.TIMED_OUT) from None
        except (OSError, HTTPException) as error:
            raise Failure(f"cannot reach the platform at {self.url} ({error}): is `mayfly up` running?") from None
        finally:
            connection.close()

    def _connect(self, timeout_s: float | None) -> "HTTPConnection":
        from http.client import HTTPConnection, HTTPSConnection

        parts = urlsplit(self.url)
        kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        return kind(parts.hostname or "", parts.port, timeout=timeout_s)


def find(data: str | None) -> Api:
    """By ``--data`` or MAYFLY_DATA, else MAYFLY_URL and MAYFLY_TOKEN, else the default data directory."""
    url = os.environ.get("MAYFLY_URL")
    if url and data is None:
        if urlsplit(url).scheme not in ("http", "https"):
            raise Failure(f"MAYFLY_URL is {url!r}: it must start with http:// or https://", Exit.USAGE)
        return Api(url.rstrip("/"), os.environ.get("MAYFLY_TOKEN", ""))
    try:
        platform = platform_file.read(Path(data or DEFAULT_DATA))
    except platform_file.PlatformNotFound as error:
        raise Failure(f"{error}, or set MAYFLY_URL and MAYFLY_TOKEN") from None
    return Api(platform.http, platform.token)


def function_path(name: str) -> str:
    return f"functions/{quoted(name)}"


def quoted(name: str) -> str:
    return quote(name, safe="")
