"""uvicorn's HTTP connection with an end to its patience, and with one system call for a response.

uvicorn waits as long as a client likes for the rest of a request, for a client to read its response, and takes headers
of any size. `Connection` notes how far a request is, which costs the way of a call next to nothing; `watch` looks at
all connections once a second and closes those that keep the gateway waiting:

* request line and headers not complete after ``head_timeout_s``, however steadily they trickle (slow loris);
* not a byte of an incomplete body for ``body_timeout_s``;
* answered already, but still sending a body, or not reading the answer, for `LINGER_S`.

The size of a head is limited while it is incomplete; `translation` limits the complete one.
"""

import asyncio
from collections.abc import Iterable
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

LINGER_S = 10.0
HEAD_LIMIT = 64 * 1024
_SWEEP_S = 1.0
_LARGE = 64 * 1024  # bytes


class _Gathering:
    """A transport that sends what one tick of the loop writes by one system call.

    uvicorn writes head and body of a response apart, and uvloop sends each at once: that second system call costs as
    much as all of the gateway's own work on a request.
    """

    def __init__(self, transport: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._gathered: list[bytes] = []

    def write(self, data: bytes) -> None:
        if len(data) >= _LARGE:  # to copy it would cost more than a system call
            self._send()
            self._transport.write(data)
            return
        if not self._gathered:
            self._loop.call_soon(self._send)
        self._gathered.append(data)

    def close(self) -> None:
        self._send()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def _send(self) -> None:
        gathered, self._gathered = self._gathered, []
        if gathered and not self._transport.is_closing():
            self._transport.write(b"".join(gathered))


class Connection(HttpToolsProtocol):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_open = True  # also before a connection's first byte
        self._head_size = 0
        self._body_open = False
        self._begun = self._heard = self.loop.time()
        self._lingers_since: float | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(_Gathering(transport, self.loop))  # type: ignore[arg-type] # a transport in all it uses

    def data_received(self, data: bytes) -> None:
        self._heard = self.loop.time()
        continues = self._head_open
        super().data_received(data)
        if continues and self._head_open:
            self._head_size += len(data)
            if self._head_size > HEAD_LIMIT:
                self.transport.abort()

    def on_message_begin(self) -> None:
        self._head_open, self._head_size = True, 0
        self._begun = self._heard
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._head_open, self._body_open = False, True
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._body_open = False
        super().on_message_complete()

    def overdue(self, now: float, *, head_timeout_s: float, body_timeout_s: float) -> bool:
        """Whether this client has been waited for long enough. Asked once a second."""
        answered = self.cycle is not None and self.cycle.response_complete
        if self.transport.is_closing() or (answered and self._body_open):
            self._lingers_since = self._lingers_since or now
            return now - self._lingers_since > LINGER_S
        self._lingers_since = None
        if self._head_open:
            return now - self._begun > head_timeout_s
        return self._body_open and not self.flow.read_paused and now - self._heard > body_timeout_s


async def watch(connections: Iterable[Any], *, head_timeout_s: float, body_timeout_s: float) -> None:
    """Close, for ever, what is overdue. ``connections`` are uvicorn's: those that are open at each moment."""
    clock = asyncio.get_running_loop().time
    while True:
        await asyncio.sleep(_SWEEP_S)
        now = clock()
        for connection in list(connections):
            if connection.overdue(now, head_timeout_s=head_timeout_s, body_timeout_s=body_timeout_s):
                connection.transport.abort()
