"""Requests that wait for their reply. Each has an inbox subject of its own below one wildcard subscription."""

import asyncio
import itertools
from typing import Any, NamedTuple

from mayfly_chassis.errors import BusClosed, NoResponders

_NO_RESPONDERS = b"NATS/1.0 503"


class Reply(NamedTuple):
    headers: bytes | None
    payload: bytes

    @property
    def says_nobody(self) -> bool:
        """Whether it is the server's word that nobody listens."""
        return self.headers is not None and not self.payload and self.headers.startswith(_NO_RESPONDERS)


class ReplyFuture(asyncio.Future[Reply]):
    """A reply to come. Cancelling it (as `asyncio.wait_for` does in the end) forgets the request."""

    __slots__ = ("_waiting", "inbox")

    def __init__(self, waiting: dict[bytes, "ReplyFuture"], inbox: bytes, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self._waiting = waiting
        self.inbox = inbox

    def cancel(self, msg: Any = None) -> bool:
        self._waiting.pop(self.inbox, None)
        return super().cancel(msg)


class Replies:
    def __init__(self, inbox: str) -> None:
        self.subject = f"{inbox}.*"
        self._prefix = f"{inbox}.".encode()
        self._loop = asyncio.get_running_loop()
        self._counter = itertools.count(1)
        self._waiting: dict[bytes, ReplyFuture] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def expect(self) -> ReplyFuture:
        inbox = b"%b%x" % (self._prefix, next(self._counter))
        future = self._waiting[inbox] = ReplyFuture(self._waiting, inbox, self._loop)
        return future

    def received(self, subject: bytes, _reply: bytes, headers: bytes | None, payload: bytes) -> None:
        """The callback of the subscription to `subject`."""
        future = self._waiting.pop(subject, None)
        if future is None or future.done():
            return
        reply = Reply(headers, payload)
        if headers is not None and reply.says_nobody:
            future.set_exception(NoResponders("nobody listens"))
        else:
            future.set_result(reply)

    def fail(self) -> None:
        """The connection is over: whoever waits gets `BusClosed`."""
        while self._waiting:
            _, future = self._waiting.popitem()
            if not future.done():
                future.set_exception(BusClosed("the connection was closed before the reply came"))
