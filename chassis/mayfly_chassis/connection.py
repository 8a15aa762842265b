"""A connection to NATS that lives through restarts of the server.

What is to be sent is appended to nats-py's list of pending commands, and what one tick of the loop has appended goes
out in one write; so a router that forwards a hundred calls in a tick makes one system call. Ours and nats-py's own
commands (PONG, replayed subscriptions) share that list, which keeps their order. What is appended while there is no
connection, or while the server takes no data, goes out later, up to `OUTBOUND_LIMIT` bytes.
"""

import asyncio
import inspect
import random
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Self

import structlog

from mayfly_chassis import frames, lane, tls
from mayfly_chassis.errors import (
    BusClosed,
    BusError,
    ConnectFailed,
    MessageTooLarge,
    OutboundBufferFull,
    RequestTimeout,
    Unauthorized,
    Untrusted,
)
from mayfly_proto import records, subjects

OUTBOUND_LIMIT = 32 * 1024 * 1024  # bytes that may wait for a connection

_CLOSE_TIMEOUT_S = 2.0

log = structlog.get_logger()


class Connection:
    """Made by `connect`; reconnects for ever, until `close` or until the server throws this client out for good."""

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
        ca_file: Path | None = None,
        on_closed: Callable[[], None] | None = None,
    ) -> Self:
        """Try once to connect to one of the servers in ``url`` (separated by commas).

        With a ``tls://`` address or a ``ca_file`` (whose certificates alone are trusted then) nothing is sent that is
        not encrypted, to any of them. ``on_closed`` is called when the connection is over for good without `close`.
        Raises `Unauthorized`, `Untrusted` or `ConnectFailed`.
        """
        trusted = _trusted(url, ca_file)
        connection = cls(role, on_closed)
        try:
            await connection._client.connect(
                url.split(","),
                name=name,
                user=user,
                password=password,
                tls=trusted,
                inbox_prefix=subjects.inbox(role),
                error_cb=connection._error,
                disconnected_cb=connection._lost,
                reconnected_cb=connection._regained,
                closed_cb=connection._closed_for_good,
                max_reconnect_attempts=-1,
                reconnect_time_wait=random.uniform(0.1, 0.25),  # type: ignore[arg-type] # noqa: S311 - spreads load
                ping_interval=10,
                max_outstanding_pings=2,
                pending_size=OUTBOUND_LIMIT,
            )
        except (OSError, TimeoutError, lane.StockError) as error:
            connection._closing = True
            connection._client.abandon()
            await connection._client.close()
            raise _kind(error)(f"{url}: {str(error) or type(error).__name__}") from error
        connection._established()
        connection._opened = True
        connection._write()
        return connection

    @property
    def connected(self) -> bool:
        return self._client.is_connected

    @property
    def identity(self) -> records.Client:
        """This connection as the server's disconnect event will name it; another one after a reconnect."""
        return records.Client(server=self._client._server_info["server_id"], id=self._client._client_id or 0)

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
        self._over()

    def _over(self) -> None:
        """Nothing will come any more."""

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
        self._over()
        self._connected.set()  # nobody is to wait for it any longer
        if not self._closing:
            self._closing = True
            log.error("bus.closed", error=str(self._client.last_error))
            if self._on_closed is not None:
                self._on_closed()


def _trusted(url: str, ca_file: Path | None) -> ssl.SSLContext | None:
    if ca_file is None and "tls://" not in url:
        return None
    try:
        return tls.trusting(ca_file)
    except tls.UnusableCertificates as error:
        raise Untrusted(str(error)) from error


def _kind(error: Exception) -> type[ConnectFailed]:
    if isinstance(error, ssl.SSLCertVerificationError | lane.NotEncrypted):
        return Untrusted
    return Unauthorized if "authorization" in str(error).lower() else ConnectFailed
