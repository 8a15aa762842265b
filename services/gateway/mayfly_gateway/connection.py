"""uvicorn's HTTP connection with an end to its patience.

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


class Connection(HttpToolsProtocol):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_open = True  # also before a connection's first byte
        self._head_size = 0
        self._body_open = False
        self._begun = self._heard = self.loop.time()
        self._lingers_since: float | None = None

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
