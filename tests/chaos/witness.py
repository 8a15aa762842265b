"""The one who counts, outside the platform: handlers tell it over TCP what they handle, and it answers each time.

A line is ``function id [id ...]``, its answer an empty line. It keeps nothing on a disk: it is never killed.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast


class Witness:
    def __init__(self) -> None:
        self.port = 0
        self.seen: Counter[tuple[str, str]] = Counter()  # (function, id) → how often
        self.first: dict[str, list[str]] = {}  # function → ids in the order in which they were first seen

    @property
    def told(self) -> int:
        return self.seen.total()

    def note(self, function: str, *ids: str) -> None:
        for identity in ids:
            if not self.seen[function, identity]:
                self.first.setdefault(function, []).append(identity)
            self.seen[function, identity] += 1


class _Teller(asyncio.Protocol):
    """The connection of one instance; of a line that its death cut short nothing is noted."""

    def __init__(self, witness: Witness, all: set[asyncio.Transport]) -> None:
        self._witness = witness
        self._all = all
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._all.add(self._transport)

    def data_received(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._witness.note(*line.decode().split())
            self._transport.write(b"\n")

    def connection_lost(self, exc: Exception | None) -> None:
        self._all.discard(self._transport)


@asynccontextmanager
async def witness() -> AsyncIterator[Witness]:
    told = Witness()
    tellers: set[asyncio.Transport] = set()
    server = await asyncio.get_running_loop().create_server(lambda: _Teller(told, tellers), "127.0.0.1", 0)
    told.port = server.sockets[0].getsockname()[1]
    try:
        yield told
    finally:
        server.close()
        for teller in tellers:
            teller.abort()
