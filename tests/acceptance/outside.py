"""A client outside the platform: stock nats-py, stock HTTP, and the operating system's own view of processes."""

import asyncio
import http.client
import json
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import nats
import nats.errors
import psutil


@dataclass(frozen=True)
class Answer:
    """One call's one answer: ``code`` is 200 for a result, else the error's, or 0 when nothing came."""

    code: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def error(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)["error"]
        return found


@asynccontextmanager
async def client(url: str, **options: Any) -> AsyncIterator[nats.NATS]:
    """A NATS connection as any user's, to one of the servers in ``url``; anonymous unless the options say whose."""
    connection = await nats.connect(
        url.split(","), max_reconnect_attempts=-1, reconnect_time_wait=0.05, allow_reconnect=True, **options
    )
    try:
        yield connection
    finally:
        await connection.close()


async def call(
    connection: nats.NATS,
    function: str,
    payload: bytes = b"",
    *,
    timeout: float = 30,
    headers: dict[str, str] | None = None,
) -> Answer:
    try:
        reply = await connection.request(f"fn.{function}", payload, timeout=timeout, headers=headers)
    except nats.errors.NoRespondersError:
        return Answer(503, b"")
    except (TimeoutError, nats.errors.TimeoutError):
        return Answer(0, b"")
    found = dict(reply.headers or {})
    return Answer(int(found.get("Nats-Service-Error-Code", 200)), reply.data, found)


def http_call(
    base: str,
    method: str,
    path: str,
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
    timeout: float = 60,
) -> Answer:
    where = urlsplit(base)
    assert where.hostname is not None
    connection = http.client.HTTPConnection(where.hostname, where.port, timeout=timeout)
    try:
        connection.request(method, path, body, headers or {})
        reply = connection.getresponse()
        return Answer(reply.status, reply.read(), {name.title(): value for name, value in reply.getheaders()})
    finally:
        connection.close()


def manage(platform: Any, method: str, path: str, body: object = None) -> Answer:
    """The management API, with the token."""
    raw = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    kind = {} if isinstance(body, bytes) or body is None else {"Content-Type": "application/json"}
    return http_call(
        platform.http, method, f"/api/v1/{path}", raw, {"Authorization": f"Bearer {platform.token}", **kind}
    )


def try_deploy(platform: Any, name: str, source: str, **settings: object) -> Answer:
    filename = f"{name.replace('.', '_').replace('-', '_')}.py"
    return manage(platform, "POST", f"functions/{name}", {"source": source, "filename": filename, "settings": settings})


def deploy(platform: Any, name: str, source: str, **settings: object) -> None:
    answer = try_deploy(platform, name, source, **settings)
    assert answer.code in (200, 201), answer.body


def instances(platform: Any, function: str | None = None) -> list[dict[str, Any]]:
    rows = json.loads(manage(platform, "GET", "instances").body)
    return [row for row in rows if function in (None, row["function"])]


def nodes(platform: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(manage(platform, "GET", "nodes").body)
    return found


def whole(platform: Any) -> bool:
    """Every service runs, and those answer without which no test begins."""
    try:
        listed = manage(platform, "GET", "functions").code == 200
        up = [node["state"] for node in nodes(platform)] == ["up"]
    except (OSError, KeyError, TypeError):  # the gateway is away, or what it asks
        return False
    return listed and up and all(alive(entry["pid"]) for entry in platform.services())


async def until(condition: Callable[[], object], timeout: float = 20, every: float = 0.05) -> Any:
    """Wait for a condition that the platform must reach by itself; returns what made it true."""
    deadline = time.monotonic() + timeout
    while True:
        found = await asyncio.to_thread(condition)
        if found:
            return found
        if time.monotonic() > deadline:
            raise TimeoutError(f"not reached within {timeout} s: {condition}")
        await asyncio.sleep(every)


def below(pid: int) -> list[int]:
    """Every process below this one."""
    try:
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def pid_of(platform: Any, service: str) -> int:
    return next(entry["pid"] for entry in platform.services() if entry["name"] == service)


def kill_9(pid: int) -> None:
    os.kill(pid, 9)
