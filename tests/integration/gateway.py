"""A gateway on a real server, and around it what tests need: a router and nodes played over the wire, raw clients."""

import asyncio
import http.client
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from mayfly_broker.server import EmbeddedServer
from mayfly_chassis.bus import Bus
from mayfly_chassis.kv import Bucket
from mayfly_chassis.service import Chassis, running
from mayfly_gateway.app import app
from mayfly_gateway.config import GatewayConfig
from mayfly_proto import headers, records, storage, subjects
from mayfly_proto.records import FunctionRecord, Package, Trigger, VersionSpec

TOKEN = "t0ken-of-the-tests"

Handler = Callable[["Call"], tuple[bytes, bytes]]  # → header block, payload


class Answer(NamedTuple):
    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        return self.json["error"]


class Call(NamedTuple):
    """What a function got."""

    subject: str
    raw: bytes
    payload: bytes

    @property
    def headers(self) -> dict[str, str]:
        return headers.parse(self.raw)


@dataclass
class Gateway:
    url: str
    chassis: Chassis

    async def send(
        self, method: str, path: str, body: Any = None, fields: dict[str, str] | None = None, *, timeout_s: float = 20
    ) -> Answer:
        def exchange() -> Answer:
            where = urlsplit(self.url)
            connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=timeout_s)
            try:
                connection.request(method, path, body, fields or {})
                reply = connection.getresponse()
                return Answer(reply.status, reply.getheaders(), reply.read())
            finally:
                connection.close()

        return await asyncio.to_thread(exchange)

    async def manage(self, method: str, path: str, body: Any = None, fields: dict[str, str] | None = None) -> Answer:
        """With the token; a dict goes as JSON."""
        fields = {"Authorization": f"Bearer {TOKEN}", **(fields or {})}
        if isinstance(body, dict):
            body, fields = json.dumps(body), {**fields, "Content-Type": "application/json"}
        return await self.send(method, f"/api/v1/{path}", body, fields)

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        where = urlsplit(self.url)
        reader, writer = await asyncio.open_connection(where.hostname, where.port)
        try:
            yield reader, writer
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def raw(self, *pieces: bytes, timeout_s: float = 10) -> bytes:
        """Everything that comes back until the gateway closes; ask for that by Connection: close."""
        async with self.connected() as (reader, writer), asyncio.timeout(timeout_s):
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
            return await reader.read()


@asynccontextmanager
async def gateway(server: EmbeddedServer, folder: Path, **settings: Any) -> AsyncIterator[Gateway]:
    token, address, password = folder / "token", folder / "address", folder / "password"
    token.write_text(f"{TOKEN}\n")
    password.write_text(server.passwords["gateway"])
    config = GatewayConfig.model_validate(
        {
            "nats_url": server.url,
            "nats_password_file": password,
            "port": 0,
            "address_file": address,
            "token_file": token,
            **settings,
        }
    )
    async with running("gateway", app, config) as chassis:
        yield Gateway(address.read_text(), chassis)


class Platform:
    """The rest of the platform as the gateway sees it: records in buckets, and somebody who answers calls."""

    def __init__(self, registry: Bus, router: Bus) -> None:
        self._functions = Bucket(registry, storage.FUNCTIONS)
        self._versions = Bucket(registry, storage.VERSIONS)
        self._router = router
        self.calls: list[Call] = []

    async def publish(
        self,
        name: str,
        version: int = 1,
        *,
        triggers: tuple[Trigger, ...] = (),
        timeout_s: float = 3.0,
        caller_rate_limit: float = 0.0,
    ) -> None:
        """As the registry would: a version, then the record that names it."""
        spec = VersionSpec(
            name=name,
            version=version,
            runtime="python",
            handler="main:handler",
            package=Package(sha256="0" * 64, size=1, format="py", filename="main.py"),
            created="2026-01-01T00:00:00Z",
            timeout_s=timeout_s,
            triggers=list(triggers),
            caller_rate_limit=caller_rate_limit,
        )
        await self._versions.put(storage.version_key(name, version), records.encode(spec))
        record = FunctionRecord(name=name, current=version, versions=list(range(1, version + 1)))
        await self._functions.put(name, records.encode(record))

    async def remove(self, name: str) -> None:
        await self._functions.delete(name)

    async def serve(self, name: str, handler: Handler, version: int | None = None) -> None:
        """As the router would: answer calls, each by ``handler``'s header block and payload."""

        def received(subject: bytes, reply: bytes, raw: bytes | None, payload: bytes) -> None:
            call = Call(subject.decode(), raw or b"", payload)
            self.calls.append(call)
            block, body = handler(call)
            self._router.publish(reply, body, headers=block)

        await self._router.subscribe(subjects.call(name, version), received, queue=subjects.ROUTER_QUEUE)
        await self._router.flush()


def result(**fields: str) -> bytes:
    """The header block of a result."""
    return headers.block({headers.INVOCATION: "i1", headers.START: "warm", **fields})


def echo(call: Call) -> tuple[bytes, bytes]:
    return result(), call.payload
