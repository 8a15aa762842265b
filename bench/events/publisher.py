"""The outside publisher, a process of its own: ``python -m events.publisher MODULE``, with a line for each burst.

``MODULE`` is a peer's: its ``sender()`` gives what puts a list of messages into the broker, its ``message(event)`` the
bytes of one, as the peer's own client would write them. Messages are made before the clock starts, and put there in
bulk: the broker has a burst within a fraction of a second whoever is to handle it, and the cost of each peer's client
is nowhere in the figures.
"""

import importlib
import json
import os
import socket
import sys
import time
from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit

CHUNK = 1_000  # JetStream refuses more than 10,000 that it has not stored yet
IDLE_S = 5.0  # after which the server may have asked for a sign of life
EVENT_BYTES = 100


def make(number: int, sleep_s: float) -> dict[str, object]:
    event: dict[str, object] = {"id": number, "sleep": sleep_s, "name": ""}
    event["name"] = "x" * (EVENT_BYTES - len(json.dumps(event)))
    return event


class Nats:
    """Publishes on a bare socket and waits for JetStream's acknowledgements, a chunk at a time."""

    def __init__(self, subject: str) -> None:
        self._subject = subject
        self._inbox = f"_INBOX.bench-{os.getpid()}"
        self._socket: socket.socket | None = None
        self._used = 0.0

    def __call__(self, messages: Sequence[bytes]) -> None:
        connection = self._connected()
        for first in range(0, len(messages), CHUNK):
            chunk = messages[first : first + CHUNK]
            while not self._stored(connection, chunk):
                time.sleep(0.05)  # its stream is still being made
        self._used = time.monotonic()

    def _stored(self, connection: socket.socket, chunk: Sequence[bytes]) -> bool:
        start = f"PUB {self._subject} {self._inbox} ".encode()
        connection.sendall(b"".join(b"%b%d\r\n%b\r\n" % (start, len(message), message) for message in chunk))
        replies = b""
        while (stored := replies.count(b'"seq":')) < len(chunk):
            received = connection.recv(1 << 16)
            if not received or b"-ERR" in received:
                raise ConnectionError(received)
            replies += received
            if b"NATS/1.0 503" in replies:
                return False
            if b'"error":' in replies:
                raise RuntimeError(replies[-300:])
        return stored == len(chunk)

    def _connected(self) -> socket.socket:
        if self._socket and time.monotonic() - self._used < IDLE_S:
            return self._socket
        if self._socket:
            self._socket.close()
        server = urlsplit(os.environ["BENCH_NATS"])
        connection = socket.create_connection((server.hostname, server.port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        options = {"verbose": False, "headers": True, "no_responders": True, "user": server.username}
        options |= {"pass": server.password, "name": "bench-publisher"}
        connection.sendall(f"CONNECT {json.dumps(options)}\r\nSUB {self._inbox} 1\r\nPING\r\n".encode())
        heard = b""
        while b"PONG\r\n" not in heard:
            heard += connection.recv(1 << 16)
        self._socket = connection
        return connection


def chunks(messages: Sequence[bytes]) -> Iterable[Sequence[bytes]]:
    return (messages[first : first + CHUNK] for first in range(0, len(messages), CHUNK))


def main(module: str) -> None:
    peer = importlib.import_module(module)
    send = peer.sender()
    for line in sys.stdin:
        first, count, sleep_s = line.split()
        ids = range(int(first), int(first) + int(count))
        messages = [peer.message(make(number, float(sleep_s))) for number in ids]
        started = time.monotonic_ns()
        send(messages)
        print(started, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
