"""One connection to NATS: what every service publishes, requests and subscribes with.

Nothing here waits for a socket. `Bus.publish` appends a frame to nats-py's list of pending commands, and what one tick
of the loop has appended goes out in one write; so a router that forwards a hundred calls in a tick makes one system
call. Ours and nats-py's own commands (SUB, PONG) share that list, which keeps their order, and what is appended while
there is no connection goes out after the reconnect, up to `OUTBOUND_LIMIT` bytes.

Every connection has one wildcard inbox below its role's prefix; replies find their future by subject.
"""

import asyncio
import inspect
import itertools
import random
import secrets
from collections.abc import Awaitable, Callable
from typing import Self

import structlog

from mayfly_chassis import frames, lane
from mayfly_chassis.errors import (
    BusClosed,
    BusError,
    ConnectFailed,
    MessageTooLarge,
    NoResponders,
    OutboundBufferFull,
    RequestTimeout,
    Unauthorized,
)
from mayfly_chassis.replies import Replies, Reply
from mayfly_proto import records, subjects

__all__ = ["OUTBOUND_LIMIT", "PAYLOAD_HEADROOM", "Bus", "Reply", "Subscription"]

OUTBOUND_LIMIT = 32 * 1024 * 1024  # bytes that may wait for a connection
PAYLOAD_HEADROOM = 65536  # bytes of a message left for headers and metadata

_CLOSE_TIMEOUT_S = 2.0
_FRAME_OVERHEAD = 100  # bytes, roughly: a frame's subjects and sizes

log = structlog.get_logger()


class Subscription:
    def __init__(self, bus: "Bus", sid: int) -> None:
        self._bus = bus
        self._sid = sid

    async def unsubscribe(self) -> None:
        """Returns when no more messages come; those that were on their way have been delivered."""
        await self._bus._unsubscribe(self._sid)


class Bus:
    """Made by `Bus.connect`; reconnects for ever, until `close` or until the server throws this client out for good."""

    def __init__(self, role: str, on_closed: Callable[[], None] | None) -> None:
        self._loop = asyncio.get_running_loop()
        self._client = lane.Client(self._callback_failed, self._set_writable)
        self._on_closed = on_closed
        self._on_reconnect: list[Callable[[], Awaitable[None] | None]] = []
        self._reconnected: asyncio.Task[None] | None = None
        self._opened = False
        self._closing = False
        self._connected = asyncio.Event()
        self._write_scheduled = False
        self._stalled = False
        self._inbox = f"{subjects.inbox(role)}.{secrets.token_hex(8)}"
        self._inboxes = itertools.count(1)
        self._replies = Replies(self._inbox)
        self._pings: set[asyncio.Future[bool]] = set()
        self.max_payload = 0
        self.reconnects = 0

    @classmethod
    async def connect(
        cls,
        url: str,
        *,
        name: str,
        role: str,
        user: str | None = None,
        password: str | None = None,
        on_closed: Callable[[], None] | None = None,
    ) -> Self:
        """Try once to connect to one of the servers in ``url`` (separated by commas).

        ``on_closed`` is called when the connection is over for good without `close`. Raises `Unauthorized` or
        `ConnectFailed`.
        """
        bus = cls(role, on_closed)
        try:
            await bus._client.connect(
                url.split(","),
                name=name,
                user=user,
                password=password,
                inbox_prefix=subjects.inbox(role),
                error_cb=bus._error,
                disconnected_cb=bus._lost,
                reconnected_cb=bus._regained,
                closed_cb=bus._closed_for_good,
                max_reconnect_attempts=-1,
                reconnect_time_wait=random.uniform(0.1, 0.25),  # type: ignore[arg-type] # noqa: S311 - spreads load
                ping_interval=10,
                max_outstanding_pings=2,
                pending_size=OUTBOUND_LIMIT,
            )
        except (OSError, TimeoutError, lane.StockError) as error:
            bus._closing = True
            await bus._client.close()
            kind = Unauthorized if "authorization" in str(error).lower() else ConnectFailed
            raise kind(f"{url}: {str(error) or type(error).__name__}") from error
        bus._established()
        bus._opened = True
        bus._listen(bus._replies.subject, "", bus._replies.received)
        return bus

    def __repr__(self) -> str:
        state = "closed" if self._closing else "connected" if self.connected else "disconnected"
        return f"<Bus {state}: {len(self._replies)} requests wait, {self.reconnects} reconnects>"

    @property
    def connected(self) -> bool:
        return self._client.is_connected

    @property
    def identity(self) -> records.Client:
        """This connection as the server's disconnect event will name it; another one after a reconnect."""
        return records.Client(server=self._client._server_info["server_id"], id=self._client._client_id or 0)

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

    async def flush(self, timeout_s: float = 10.0) -> None:
        """Returns when the server has processed all that was sent before. Raises `RequestTimeout`, `BusClosed`."""
        try:
            async with asyncio.timeout(timeout_s):
                while not await self._answered():
                    await self._connected.wait()
        except TimeoutError as error:
            raise RequestTimeout(f"flush: no answer from the server in {timeout_s} s") from error

    def on_reconnect(self, callback: Callable[[], Awaitable[None] | None]) -> None:
        """Have ``callback`` called after every reconnect, when subscriptions are replayed.

        Callbacks run in order in a task of their own; one that still runs at the next reconnect is cancelled and begun
        anew.
        """
        self._on_reconnect.append(callback)

    async def close(self) -> None:
        """Send what is pending (if the server takes it), then close for good. Requests under way get `BusClosed`."""
        if self._closing:
            return
        try:
            if not self.connected:
                raise BusClosed("disconnected")
            await self.flush(_CLOSE_TIMEOUT_S)
        except BusError as error:
            log.warning("bus.closed_unflushed", error=str(error))
            self._client.abandon()
        self._closing = True
        if self._reconnected is not None:
            self._reconnected.cancel()
        await self._client.close()
        self._replies.fail()

    def _listen(self, subject: str, queue: str, callback: frames.Callback) -> int:
        if self._closing:
            raise BusClosed(subject)
        encoded = frames.encoded(subject)
        sid = self._client.listen(subject, queue, callback)
        self._command(frames.subscribe(encoded, frames.encoded(queue) if queue else b"", sid))
        return sid

    async def _answered(self) -> bool:
        """Ping the server; False when there is no connection, or it is lost before the answer.

        nats-py's own flush overtakes what is pending, and swallows a cancellation at the wrong moment.
        """
        if self._client.is_closed:
            raise BusClosed("flush")
        if not self._connected.is_set():
            return False
        future: asyncio.Future[bool] = self._loop.create_future()
        self._pings.add(future)
        future.add_done_callback(self._pings.discard)
        if self.connected:  # if not, `_lost` follows in a moment
            self._client._pongs.append(future)
            self._command(frames.PING)
            self._write()
        return await asyncio.shield(future)  # nats-py sets its result, even when nobody waits any longer

    async def _unsubscribe(self, sid: int) -> None:
        self._client.forget(sid)
        if self.connected and not self._closing:
            self._command(frames.unsubscribe(sid))
            try:
                await self.flush()
            except BusError:
                log.warning("bus.flush_failed")
        elif not self._closing:
            # The SUB may still wait to be sent; a queue member that nobody serves would swallow messages.
            self._command(frames.unsubscribe(sid))
        self._client.silence(sid)

    def _command(self, command: bytes) -> None:
        self._client._pending.append(command)
        self._client._pending_data_size += len(command)
        if not self._write_scheduled:
            self._write_scheduled = True
            self._loop.call_soon(self._write)

    def _write(self) -> None:
        self._write_scheduled = False
        client = self._client
        pending = client._pending
        if not pending or self._stalled or client._status != lane.Client.CONNECTED:
            return
        client._pending = []
        client._pending_data_size = 0
        client._transport._io_writer.write(pending[0] if len(pending) == 1 else b"".join(pending))

    def _check_sendable(self, subject: bytes, size: int) -> None:
        if self._closing:
            raise BusClosed("publish")
        if size > self.max_payload:
            raise MessageTooLarge(f"{size} bytes to {frames.text(subject)}: the server takes {self.max_payload}")
        if self._stalled or not self.connected:
            raise OutboundBufferFull(f"more than {OUTBOUND_LIMIT} bytes wait for a connection")

    def _set_writable(self, writable: bool) -> None:
        self._stalled = not writable
        if writable:
            self._write()

    def _callback_failed(self, subject: bytes, error: Exception) -> None:
        log.error("bus.callback_failed", subject=subject.decode("utf-8", "replace"), exc_info=error)

    def _established(self) -> None:
        self.max_payload = self._client.max_payload
        self._connected.set()

    async def _error(self, error: Exception) -> None:
        if not self._opened and not self._closing:
            raise error  # ends the first attempt to connect, which nats-py would repeat for ever
        if self.connected:
            log.warning("bus.error", error=str(error) or type(error).__name__)

    async def _lost(self) -> None:
        self._connected.clear()
        self._client._pending = [part for part in self._client._pending if part is not frames.PING]
        for future in self._pings:
            if not future.done():
                future.set_result(False)
        if not self._closing:
            log.warning("bus.disconnected")

    async def _regained(self) -> None:
        self.reconnects += 1
        self._established()
        log.info("bus.reconnected", reconnects=self.reconnects)
        if self._reconnected is not None:
            self._reconnected.cancel()
        self._reconnected = self._loop.create_task(self._tell_reconnected(), name="bus.reconnected")

    async def _tell_reconnected(self) -> None:
        for callback in self._on_reconnect:
            try:
                result = callback()
                if inspect.isawaitable(result):
                    await result
            except Exception:
                log.exception("bus.reconnect_callback_failed")

    async def _closed_for_good(self) -> None:
        self._replies.fail()
        self._connected.set()  # nobody is to wait for it any longer
        if not self._closing:
            self._closing = True
            log.error("bus.closed", error=str(self._client.last_error))
            if self._on_closed is not None:
                self._on_closed()


def _expire(future: asyncio.Future[Reply], subject: str | bytes, timeout_s: float) -> None:
    if not future.done():
        future.set_exception(RequestTimeout(f"{frames.text(subject)}: no reply in {timeout_s} s"))
