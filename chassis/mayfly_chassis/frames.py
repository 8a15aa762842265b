"""The NATS client protocol as bytes: what a publish looks like, and how what a server sends is taken apart.

This is the warm path of the whole platform, so it counts bytes and calls: a message costs one `find`, one `split` and
the slices that are handed over. Nothing is decoded; a header block stays the block it is.
"""

from collections.abc import Callable

Callback = Callable[[bytes, bytes, bytes | None, bytes], None]
"""Called with subject, reply subject (``b""``: none), raw header block or None, payload."""

_MSG = ord("M")
_HMSG = ord("H")


PING = b"PING\r\n"


def encoded(subject: str | bytes) -> bytes:
    """Raises ValueError for what would end the command early and smuggle in another."""
    checked = text(subject)
    if not checked or " " in checked or not checked.isprintable():
        raise ValueError(f"not a subject: {checked!r}")
    return checked.encode()


def text(subject: str | bytes) -> str:
    return subject if isinstance(subject, str) else subject.decode("utf-8", "replace")


def subscribe(subject: bytes, queue: bytes, sid: int) -> bytes:
    return b"SUB %b %b %d\r\n" % (subject, queue, sid)


def unsubscribe(sid: int) -> bytes:
    return b"UNSUB %d\r\n" % sid


class Parser:
    """Calls the subscriptions' callbacks for whole messages, and ``other`` with everything else, unchanged.

    ``callbacks`` are keyed by subscription id as it comes over the wire and may change at any time. An exception in a
    callback goes to ``failed(subject, error)`` and stops nothing. A line that is no NATS raises `ValueError`.
    """

    def __init__(
        self,
        callbacks: dict[bytes, Callback],
        other: Callable[[bytes], None],
        failed: Callable[[bytes, Exception], None],
    ) -> None:
        self._callbacks = callbacks
        self._other = other
        self._failed = failed
        self._chunks: list[bytes] = []  # of a frame that is not whole yet
        self._missing = 0  # at least so many bytes of it are still to come

    def feed(self, data: bytes) -> None:
        if self._missing:
            # Joined once, when the frame is whole: adding up a large one piece by piece would be quadratic.
            self._chunks.append(data)
            self._missing -= len(data)
            if self._missing > 0:
                return
            data = b"".join(self._chunks)
            self._chunks.clear()
            self._missing = 0
        start, size = 0, len(data)
        callbacks = self._callbacks
        while start < size:
            end = data.find(b"\r\n", start)
            if end < 0:
                self._keep(data[start:], 1)
                return
            kind = data[start]
            if kind == _MSG:
                fields = data[start + 4 : end].split(b" ")
                reply = headers_size = b""
                if len(fields) == 4:
                    subject, sid, reply, total = fields
                else:
                    subject, sid, total = fields
            elif kind == _HMSG:
                fields = data[start + 5 : end].split(b" ")
                reply = b""
                if len(fields) == 5:
                    subject, sid, reply, headers_size, total = fields
                else:
                    subject, sid, headers_size, total = fields
            else:
                self._other(data[start : end + 2])
                start = end + 2
                continue
            body = end + 2
            stop = body + int(total)
            if stop + 2 > size:
                self._keep(data[start:], stop + 2 - size)
                return
            callback = callbacks.get(sid)
            try:
                if callback is None:
                    self._other(data[start : stop + 2])
                elif headers_size:
                    payload = body + int(headers_size)
                    callback(subject, reply, data[body:payload], data[payload:stop])
                else:
                    callback(subject, reply, None, data[body:stop])
            except Exception as error:  # noqa: BLE001 - whatever it was, the next message is not to blame
                self._failed(subject, error)
            start = stop + 2

    def _keep(self, rest: bytes, missing: int) -> None:
        self._chunks.append(rest)
        self._missing = missing
