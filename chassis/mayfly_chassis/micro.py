"""NATS micro services: what ``nats micro ls | info | stats | ping`` and every NATS client's service API find.

Not nats-py's own, whose endpoints handle one request after the other and send an unexpected exception's ``repr`` to the
caller. Here requests of an endpoint run side by side, ``limit`` at a time; some more wait, the rest get 429.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec
import structlog

from mayfly_chassis.bus import Bus, Subscription
from mayfly_proto import subjects
from mayfly_proto.errors import CallError, ErrorType

T = TypeVar("T")

WAITING_PER_SLOT = 16  # requests that may wait for each that may run

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Request:
    subject: str
    headers: bytes | None
    payload: bytes

    def json(self, kind: type[T]) -> T:
        """The payload as that type (empty: as ``{}``). Raises `CallError` BAD_REQUEST, which names the field."""
        try:
            return msgspec.json.decode(self.payload or b"{}", type=kind)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise CallError(ErrorType.BAD_REQUEST, str(error), component="") from error


Handler = Callable[[Request], Awaitable[bytes]]


@dataclass(slots=True)
class _Endpoint:
    name: str
    subject: str
    queue: str
    handler: Handler
    limit: int
    slots: asyncio.Semaphore
    subscription: Subscription | None = None
    running: int = 0
    requests: int = 0
    errors: int = 0
    busy_ns: int = 0
    last_error: str = ""


@dataclass(slots=True)
class Micro:
    """One service instance. The chassis starts and stops it; services add their endpoints."""

    bus: Bus
    name: str
    version: str
    description: str
    tasks: asyncio.TaskGroup
    identity: str = field(default_factory=lambda: secrets.token_hex(11).upper())
    _endpoints: list[_Endpoint] = field(default_factory=list)
    _discovery: list[Subscription] = field(default_factory=list)
    _idle: asyncio.Event = field(default_factory=asyncio.Event)
    _started: str = ""
    _stopped: bool = False

    async def endpoint(self, name: str, subject: str, handler: Handler, *, queue: str = "", limit: int = 64) -> None:
        """Have ``handler`` answer requests to ``subject``, ``limit`` at a time.

        Its bytes are the reply. A `CallError` becomes the error headers and body; anything else is logged, and the
        caller gets 500 without details.
        """
        endpoint = _Endpoint(name, subject, queue, handler, limit, asyncio.Semaphore(limit))

        def received(subject: bytes, reply: bytes, raw: bytes | None, payload: bytes) -> None:
            self._received(endpoint, Request(subject.decode(), raw, payload), reply)

        endpoint.subscription = await self.bus.subscribe(subject, received, queue=queue)
        self._endpoints.append(endpoint)

    async def start(self) -> None:
        """Answer discovery from now on."""
        if self._started:
            return
        self._started = _now()
        answers: dict[str, Callable[[], dict[str, Any]]] = {
            "PING": self._ping,
            "INFO": self._info,
            "STATS": self._stats,
        }
        for verb, answer in answers.items():
            for address in ((), (self.name,), (self.name, self.identity)):
                self._discovery.append(
                    await self.bus.subscribe(subjects.service_verb(verb, *address), self._answering(answer))
                )

    async def stop(self) -> None:
        """Take no new requests; returns when those that run or wait are answered."""
        if self._stopped:
            return
        self._stopped = True
        subscriptions = [*self._discovery, *(e.subscription for e in self._endpoints if e.subscription is not None)]
        await asyncio.gather(*(subscription.unsubscribe() for subscription in subscriptions))
        while any(endpoint.running for endpoint in self._endpoints):
            self._idle.clear()
            await self._idle.wait()

    def _received(self, endpoint: _Endpoint, request: Request, reply: bytes) -> None:
        endpoint.requests += 1
        if endpoint.running >= endpoint.limit * (1 + WAITING_PER_SLOT):
            self._refuse(
                endpoint,
                reply,
                CallError(ErrorType.THROTTLED, "too many requests", component=self.name, retry_after_s=1),
            )
            return
        endpoint.running += 1
        self.tasks.create_task(self._handle(endpoint, request, reply), name=f"{self.name}.{endpoint.name}")

    async def _handle(self, endpoint: _Endpoint, request: Request, reply: bytes) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with endpoint.slots:
                began = loop.time()
                try:
                    answer = await endpoint.handler(request)
                    if reply:
                        self.bus.publish(reply, answer)
                finally:
                    endpoint.busy_ns += int((loop.time() - began) * 1e9)
        except CallError as error:
            self._refuse(endpoint, reply, error)
        except Exception:
            log.exception("request.failed", service=self.name, endpoint=endpoint.name)
            self._refuse(endpoint, reply, CallError(ErrorType.INTERNAL, "internal error", component=self.name))
        finally:
            endpoint.running -= 1
            self._idle.set()

    def _refuse(self, endpoint: _Endpoint, reply: bytes, error: CallError) -> None:
        error.component = error.component or self.name
        endpoint.errors += 1
        endpoint.last_error = f"{error.kind.code}:{error.message}"
        if reply:
            self.bus.publish(reply, error.body(), headers=error.headers())

    def _answering(self, answer: Callable[[], dict[str, Any]]) -> Callable[[bytes, bytes, bytes | None, bytes], None]:
        def received(_subject: bytes, reply: bytes, _raw: bytes | None, _payload: bytes) -> None:
            if reply:
                self.bus.publish(reply, msgspec.json.encode(answer()))

        return received

    def _ping(self) -> dict[str, Any]:
        return self._identify("ping")

    def _info(self) -> dict[str, Any]:
        endpoints = [_describe(endpoint) for endpoint in self._endpoints]
        return self._identify("info") | {"description": self.description, "endpoints": endpoints}

    def _stats(self) -> dict[str, Any]:
        endpoints = [_describe(endpoint) | _count(endpoint) for endpoint in self._endpoints]
        return self._identify("stats") | {"started": self._started, "endpoints": endpoints}

    def _identify(self, verb: str) -> dict[str, Any]:
        return {
            "type": f"io.nats.micro.v1.{verb}_response",
            "name": self.name,
            "id": self.identity,
            "version": self.version,
            "metadata": {},
        }


def _describe(endpoint: _Endpoint) -> dict[str, Any]:
    return {
        "name": endpoint.name,
        "subject": endpoint.subject,
        "queue_group": endpoint.queue,
        "metadata": {},
    }


def _count(endpoint: _Endpoint) -> dict[str, Any]:
    return {
        "num_requests": endpoint.requests,
        "num_errors": endpoint.errors,
        "last_error": endpoint.last_error,
        "processing_time": endpoint.busy_ns,
        "average_processing_time": endpoint.busy_ns // max(endpoint.requests, 1),
    }


def _now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")
