"""One connection to NATS: what every service publishes, requests and subscribes with.

Nothing here waits for a socket: `Bus.publish` appends to what goes out at the end of the tick (see `connection`), and
messages are handed to callbacks where they are read (see `lane`). Every connection has one wildcard inbox below its
role's prefix; replies find their future by subject.
"""

import asyncio
import itertools
import secrets
from collections.abc import Callable, Collection

import structlog

from mayfly_chassis import frames
from mayfly_chassis.connection import OUTBOUND_LIMIT, Connection
from mayfly_chassis.errors import BusClosed, BusError, NoResponders, RequestTimeout
from mayfly_chassis.replies import Replies, Reply
from mayfly_proto import subjects

__all__ = ["OUTBOUND_LIMIT", "PAYLOAD_HEADROOM", "Bus", "Reply", "Subscription"]

PAYLOAD_HEADROOM = 65536  # bytes of a message left for headers and metadata

_FRAME_OVERHEAD = 100  # bytes, roughly: a frame's subjects and sizes

log = structlog.get_logger()


class Subscription:
    __slots__ = ("_bus", "sid")

    def __init__(self, bus: "Bus", sid: int) -> None:
        self._bus = bus
        self.sid = sid  # by which the server knows it

    async def unsubscribe(self) -> None:
        """Returns when no more messages come; those that were on their way have been delivered."""
        await self._bus.unsubscribe([self])


class Bus(Connection):
    """Made by `Bus.connect`."""

    def __init__(self, role: str, on_closed: Callable[[], None] | None) -> None:
        super().__init__(role, on_closed)
        self._inbox = f"{subjects.inbox(role)}.{secrets.token_hex(8)}"
        self._inboxes = itertools.count(1)
        self._replies = Replies(self._inbox)
        self._listen(self._replies.subject, "", self._replies.received)

    def __repr__(self) -> str:
        state = "closed" if self._closing else "connected" if self.connected else "disconnected"
        return f"<Bus {state}: {len(self._replies)} requests wait, {self.reconnects} reconnects>"

    @property
    def payload_limit(self) -> int:
        """The largest payload of a call: what a message may hold, less headers and metadata."""
        return self.max_payload - PAYLOAD_HEADROOM

    def publish(
        self,
        subject: str | bytes,
        payload: bytes = b"",
        *,
        reply: str | bytes = b"",
        headers: bytes | None = None,
    ) -> None:
        """Send at the end of this tick. A subject given as bytes is taken as it is; a str is checked.

        Raises `OutboundBufferFull`, `MessageTooLarge`, `BusClosed`, and ValueError for what is no subject.
        """
        if subject.__class__ is not bytes:
            subject = frames.encoded(subject)
        elif not subject:
            raise ValueError("no subject")
        if reply.__class__ is not bytes:
            reply = frames.encoded(reply) if reply else b""
        frame: tuple[bytes, ...]
        size = len(payload)
        if headers:
            size += len(headers)
            # In pieces: what this tick sends is joined once, and a payload is not copied before.
            frame = (b"HPUB ", subject, b" ", reply, b" %d %d\r\n" % (len(headers), size), headers, payload, b"\r\n")
        else:
            frame = (b"PUB ", subject, b" ", reply, b" %d\r\n" % size, payload, b"\r\n")
        client = self._client
        waiting = client._pending_data_size
        if size > self.max_payload or waiting > OUTBOUND_LIMIT or self._closing:
            self._check_sendable(subject, size)
        client._pending += frame
        client._pending_data_size = waiting + size + _FRAME_OVERHEAD
        if not self._write_scheduled:
            self._write_scheduled = True
            self._loop.call_soon(self._write)

    def request_future(
        self, subject: str | bytes, payload: bytes = b"", headers: bytes | None = None
    ) -> asyncio.Future[Reply]:
        """The hot path of `request`: the future has no timeout of its own and may be cancelled."""
        future = self._replies.expect()
        try:
            self.publish(subject, payload, reply=future.inbox, headers=headers)
        except Exception:
            future.cancel()
            raise
        return future

    async def request(
        self, subject: str | bytes, payload: bytes = b"", *, headers: bytes | None = None, timeout_s: float = 5.0
    ) -> Reply:
        """Raises `NoResponders`, `RequestTimeout`, and what `publish` raises."""
        future = self.request_future(subject, payload, headers)
        timer = self._loop.call_later(timeout_s, _expire, future, subject, timeout_s)
        try:
            return await future
        except NoResponders:
            raise NoResponders(f"{frames.text(subject)}: nobody listens") from None
        finally:
            timer.cancel()
            future.cancel()

    async def request_many(
        self, subject: str, payload: bytes = b"", *, replies: int | None = None, timeout_s: float
    ) -> list[Reply]:
        """What has come when ``replies`` are complete, or else after ``timeout_s``; empty when nobody listens."""
        received: list[Reply] = []
        complete = asyncio.Event()

        def collect(_subject: bytes, _reply: bytes, raw: bytes | None, body: bytes) -> None:
            reply = Reply(raw, body)
            if not reply.says_nobody:
                received.append(reply)
            if reply.says_nobody or len(received) == replies:
                complete.set()

        inbox = self.new_inbox()
        subscription = await self.subscribe(inbox, collect)
        try:
            self.publish(subject, payload, reply=inbox)
            async with asyncio.timeout(timeout_s):
                await complete.wait()
        except TimeoutError:
            pass
        finally:
            await subscription.unsubscribe()
        return received[:replies]

    def new_inbox(self) -> str:
        """A reply subject of one's own, to be subscribed to."""
        return f"{self._inbox}.many.{next(self._inboxes)}"

    async def subscribe(self, subject: str, callback: frames.Callback, *, queue: str = "") -> Subscription:
        """Have ``callback(subject, reply, raw headers or None, payload)`` called for every message, synchronously.

        An exception in it is logged and stops nothing.
        """
        return Subscription(self, self._listen(subject, queue, callback))

    async def unsubscribe(self, subscriptions: Collection[Subscription]) -> None:
        """All of these in one turn-around; see `Subscription.unsubscribe`."""
        for subscription in subscriptions:
            self._client.forget(subscription.sid)
            if not self._closing:
                # Without a connection as well: the SUB may still wait to be sent, and a queue member that nobody serves
                # would swallow messages.
                self._command(frames.unsubscribe(subscription.sid))
        if subscriptions and self.connected and not self._closing:
            try:
                await self.flush()
            except BusError:
                log.warning("bus.flush_failed")
        for subscription in subscriptions:
            self._client.silence(subscription.sid)

    def _over(self) -> None:
        self._replies.fail()

    def _listen(self, subject: str, queue: str, callback: frames.Callback) -> int:
        if self._closing:
            raise BusClosed(subject)
        encoded = frames.encoded(subject)
        sid = self._client.listen(subject, queue, callback)
        self._command(frames.subscribe(encoded, frames.encoded(queue) if queue else b"", sid))
        return sid


def _expire(future: asyncio.Future[Reply], subject: str | bytes, timeout_s: float) -> None:
    if not future.done():
        future.set_exception(RequestTimeout(f"{frames.text(subject)}: no reply in {timeout_s} s"))
