"""nats-py with a fast lane for messages.

nats-py connects, authenticates, upgrades to TLS, reconnects and replays subscriptions; all of that stays as it is. Only
the way of a message is ours: nats-py reads through a StreamReader, parses with regular expressions into dicts, and puts
messages into one queue and task per subscription, which costs 2 to 4 times as much as our whole hop may.

So once a connection is established (nats-py then starts ``_read_loop``), its transport gets `_Lane` as protocol, which
parses where the bytes arrive and calls the subscription at once. Everything that is not a message for one of our
subscriptions (PING, PONG, INFO, -ERR) goes to nats-py's own parser. nats-py's StreamReaderProtocol still hears of
everything but data, so that its ``drain()`` and ``wait_closed()`` work.

This rests on private parts of nats-py 2.16; ``tests/contract/test_bus_nats_py.py`` names each and fails when one moves.
"""

import asyncio
import ssl
import sys
from collections.abc import Callable
from typing import Any

# aiohttp, where it happens to be installed, costs every service 80 ms and 11 MB for a WebSocket transport nobody uses.
_hide_aiohttp = "aiohttp" not in sys.modules
if _hide_aiohttp:
    sys.modules["aiohttp"] = None  # type: ignore[assignment]
import nats.aio.client as stock  # noqa: E402 - see above
from nats.aio.transport import TcpTransport  # noqa: E402
from nats.errors import Error as StockError  # noqa: E402
from nats.errors import UnexpectedEOF  # noqa: E402

if _hide_aiohttp:
    del sys.modules["aiohttp"]

from mayfly_chassis import frames  # noqa: E402

__all__ = ["Client", "NotEncrypted", "StockError"]


class NotEncrypted(StockError):
    """A server that was to speak TLS does not."""

    def __str__(self) -> str:
        return "the server does not demand TLS, and this connection does"


class _Lane(asyncio.Protocol):
    """The protocol of an established connection."""

    def __init__(
        self,
        stream: asyncio.StreamReaderProtocol,
        parser: frames.Parser,
        writable: Callable[[bool], None],
        ended: Callable[[Exception], None],
    ) -> None:
        self.data_received = parser.feed  # type: ignore[method-assign] # one call less for every read
        self._stream = stream
        self._writable = writable
        self._ended = ended

    def pause_writing(self) -> None:
        self._stream.pause_writing()
        self._writable(False)

    def resume_writing(self) -> None:
        self._stream.resume_writing()
        self._writable(True)

    def eof_received(self) -> bool | None:
        self._ended(UnexpectedEOF())
        return self._stream.eof_received()

    def connection_lost(self, error: Exception | None) -> None:
        self._stream.connection_lost(error)
        self._ended(error or UnexpectedEOF())


class _Subscription:
    """What nats-py wants of a subscription to send it again after a reconnect, and to close. One of its own has queues
    of its own, and weighs 4.5 KB: a router with ten thousand functions has fifty thousand."""

    __slots__ = ("_queue", "_subject")

    _max_msgs = 0
    _received = 0
    _wait_for_msgs_task = _message_iterator = _pending_next_msgs_calls = None

    def __init__(self, subject: str, queue: str) -> None:
        self._subject = subject
        self._queue = queue


class _Transport(TcpTransport):
    """nats-py's, which forgets in two places that a connection became another one by TLS."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # nats-py's

    async def connect_tls(self, uri: Any, ssl_context: ssl.SSLContext, buffer_size: int, connect_timeout: int) -> None:
        plain = self._io_writer
        assert plain is not None
        try:
            await super().connect_tls(uri, ssl_context, buffer_size, connect_timeout)
        except BaseException:
            plain.transport.abort()
            self._io_reader = self._io_writer = None  # who waits for their end would wait for ever
            raise
        assert self._io_writer is not None
        self._io_writer.transport.get_protocol()._over_ssl = True  # type: ignore[attr-defined] # else asyncio complains

    def __bool__(self) -> bool:
        return True  # so that nats-py does not make one of its own


class Client(stock.Client):
    """nats-py's client whose subscriptions, made by `listen`, are called synchronously."""

    def __init__(self, failed: Callable[[bytes, Exception], None], writable: Callable[[bool], None]) -> None:
        super().__init__()
        self._transport: Any = _Transport()
        self._failed = failed
        self._writable = writable
        self._callbacks: dict[bytes, frames.Callback] = {}

    def listen(self, subject: str, queue: str, callback: frames.Callback) -> int:
        """Note a subscription, so that it is replayed after a reconnect; returns its id. The caller sends it."""
        self._sid += 1
        self._subs[self._sid] = _Subscription(subject, queue)  # type: ignore[assignment] # all that is wanted of one
        self._callbacks[b"%d" % self._sid] = callback
        return self._sid

    def forget(self, sid: int) -> None:
        """Do not replay it any more."""
        self._subs.pop(sid, None)

    def silence(self, sid: int) -> None:
        """Do not call it any more."""
        self._callbacks.pop(b"%d" % sid, None)

    def abandon(self) -> None:
        """Give up what is pending: closing would wait for a server that takes nothing."""
        self._pending = []
        self._pending_data_size = 0
        self._abort()

    def _abort(self) -> None:
        if self._transport._io_writer is not None:
            self._transport._io_writer.transport.abort()

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        """nats-py follows the server: whoever answers in its place without TLS would be sent the password."""
        if initial_connection and "tls" in self.options and not info.get("tls_required"):
            self._abort()
            raise NotEncrypted
        await super()._process_info(info, initial_connection)

    async def _read_loop(self) -> None:
        """Feeds nats-py's own parser with what is not ours, until the connection ends."""
        inbox: asyncio.Queue[bytes | Exception] = asyncio.Queue()
        try:
            self._take_over(inbox)
            while True:
                item = await inbox.get()
                if isinstance(item, Exception):
                    raise item
                await self._ps.parse(item)
        except Exception as error:  # noqa: BLE001 - whatever broke this connection, the answer is a new one
            await self._process_op_err(error)

    async def _process_op_err(self, error: Exception) -> None:
        """nats-py reconnects once the old connection is closed, which a dead peer that takes no data would put off."""
        if not self.is_closed and not self.is_reconnecting:
            self._abort()
        await super()._process_op_err(error)

    def _take_over(self, inbox: "asyncio.Queue[bytes | Exception]") -> None:
        reader, writer = self._transport._io_reader, self._transport._io_writer
        parser = frames.Parser(self._callbacks, inbox.put_nowait, self._failed)
        stream = writer.transport.get_protocol()
        writer.transport.set_protocol(_Lane(stream, parser, self._writable, inbox.put_nowait))
        self._writable(True)
        early = bytes(reader._buffer)
        reader._buffer.clear()
        reader._maybe_resume_transport()
        if early:
            parser.feed(early)
        if reader.at_eof():
            inbox.put_nowait(reader.exception() or UnexpectedEOF())
