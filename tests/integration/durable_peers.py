"""What tests of durable calls need around them: a gateway with the real registry, and a router's word by hand."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from mayfly_broker.server import EmbeddedServer
from mayfly_chassis import jetstream
from mayfly_chassis.bus import Bus
from mayfly_chassis.service import running
from mayfly_proto import headers, subjects
from mayfly_proto.errors import CallError, ErrorType
from mayfly_registry.app import app as registry_app
from mayfly_registry.config import RegistryConfig
from tests.conftest import Connect
from tests.integration.gateway import Gateway, Platform, gateway


class Router:
    """What a router says of durable calls and events."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus

    async def says(self, identity: str, state: str, payload: bytes = b"", **fields: str) -> None:
        block = headers.block({headers.STATE: state, headers.ATTEMPTS: "1"} | fields)
        await jetstream.publish(self.bus, subjects.result(identity, "hello"), payload, headers=block)

    async def failed(self, identity: str) -> None:
        error = CallError(ErrorType.FUNCTION_ERROR, "ValueError: no", component="function", traceback="Tr...")
        block = error.headers({headers.STATE: "failed", headers.ATTEMPTS: "3"})
        await jetstream.publish(self.bus, subjects.result(identity, "hello"), error.body(), headers=block)

    async def buries(self, function: str, payload: bytes, kind: str) -> int:
        fields = {headers.REASON: "raised", headers.INVOCATION: "E1", headers.CONTENT_TYPE: kind}
        subject = subjects.dead_letter(function)
        return await jetstream.publish(self.bus, subject, payload, headers=headers.block(fields))

    async def answers_cancel(self, *answers: dict[str, Any]) -> None:
        """One after the other."""
        coming = iter(answers)

        def received(_subject: bytes, reply: bytes, _raw: bytes | None, _payload: bytes) -> None:
            self.bus.publish(reply, json.dumps(next(coming)).encode())

        await self.bus.subscribe(subjects.cancel("hello"), received, queue=subjects.ROUTER_QUEUE)
        await self.bus.flush()


@asynccontextmanager
async def gateway_and_registry(server: EmbeddedServer, folder: Path, connect: Connect) -> AsyncIterator[Gateway]:
    """With a function `hello`."""
    await Platform(await connect("registry"), await connect("router")).publish("hello")
    password = folder / "registry-password"
    password.write_text(server.passwords["registry"])
    config = RegistryConfig(nats_url=server.url, nats_password_file=password)
    async with running("registry", registry_app, config), gateway(server, folder) as running_gateway:
        yield running_gateway
