"""Hears from all handlers which events started and were done, and when."""

import selectors
import socket
import time
from collections.abc import Callable
from typing import Self

from events.handler import DONE, RECORD


class Tally:
    """What has been heard of one lot of events: number → times in ns, in the order in which they were heard."""

    def __init__(self, ids: range) -> None:
        self.ids = ids
        self.started: dict[int, list[int]] = {}
        self.done: dict[int, list[int]] = {}

    def hear(self, number: int, phase: int, moment: int) -> None:
        (self.done if phase == DONE else self.started).setdefault(number, []).append(moment)


class Counter:
    def __init__(self) -> None:
        self._tallies: list[Tally] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = int(self._listener.getsockname()[1])
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._rest: dict[socket.socket, bytes] = {}
        self._next = 1

    def expect(self, events: int) -> Tally:
        """Numbers for so many events, which no other ones have had."""
        tally = Tally(range(self._next, self._next + events))
        self._next += events
        self._tallies.append(tally)
        return tally

    def wait(self, until: Callable[[], bool], timeout_s: float) -> bool:
        """Listens until the condition holds; False when it did not in time."""
        deadline = time.monotonic() + timeout_s
        while not until():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self._listen(left)
        return True

    def _listen(self, timeout_s: float) -> None:
        for key, _ in self._selector.select(timeout_s):
            assert isinstance(key.fileobj, socket.socket)
            if key.fileobj is self._listener:
                connection, _ = self._listener.accept()
                self._selector.register(connection, selectors.EVENT_READ)
                self._rest[connection] = b""
            else:
                self._read(key.fileobj)

    def _read(self, connection: socket.socket) -> None:
        try:
            received = connection.recv(1 << 16)
        except ConnectionResetError:  # its process was killed
            received = b""
        if not received:
            self._forget(connection)
            return
        records = self._rest[connection] + received
        whole = len(records) - len(records) % RECORD.size
        for number, phase, moment in RECORD.iter_unpack(records[:whole]):
            for tally in reversed(self._tallies):
                if number in tally.ids:
                    tally.hear(number, phase, moment)
                    break
        self._rest[connection] = records[whole:]

    def _forget(self, connection: socket.socket) -> None:
        self._selector.unregister(connection)
        connection.close()
        del self._rest[connection]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for connection in list(self._rest):
            self._forget(connection)
        self._listener.close()
        self._selector.close()
