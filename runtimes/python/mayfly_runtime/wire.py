"""Frames between worker and instance, as ``runtimes/CONTRACT.md`` lays them down.

frame = u8 kind | u32 length of the metadata | u32 length of the payload | metadata (msgpack) | payload
"""

import os
import select
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, cast

import msgpack

EVENT = 1
READY = 2
INIT_ERROR = 3
RESULT = 4
ERROR = 5
LOG = 6
START = 7
ASK = 8
ANSWER = 9

JSON = 0
TEXT = 1
BYTES = 2

STDOUT = 1
STDERR = 2

Frame = tuple[int, Any, bytes]  # kind, metadata, payload

_HEAD = struct.Struct("<BII")
_READ = 65536

# One packer for all, since a new one allocates a megabyte: used under a channel's lock, or where there is one thread.
encode: Callable[[object], bytes] = msgpack.Packer().pack  # type: ignore[no-untyped-call, attr-defined]  # it has no types
decode: Callable[[bytes], Any] = msgpack.unpackb  # type: ignore[attr-defined]


def pack(kind: int, meta: object, payload: bytes = b"") -> bytes:
    raw = encode(meta)
    return _HEAD.pack(kind, len(raw), len(payload)) + raw + payload


class Channel:
    """The instance's end of the socket; any thread may send, one at a time may receive."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._readable = select.poll()
        self._readable.register(fd, select.POLLIN)
        self._sending = threading.Lock()
        self._pending = b""
        self._gathered: list[bytes] = []  # of a frame that `feed` has not seen whole: joined once, not piece by piece
        self._short = 0  # at least so many bytes of it are still to come
        self._kept: deque[Frame] = deque()  # events that came while an answer was waited for

    def send(self, kind: int, meta: object, payload: bytes = b"") -> None:
        with self._sending:
            frame = pack(kind, meta, payload)
            sent = os.write(self.fd, frame)
            if sent < len(frame):
                self._send_rest(memoryview(frame)[sent:])

    def _send_rest(self, rest: memoryview) -> None:
        while rest:
            rest = rest[os.write(self.fd, rest) :]

    def close(self) -> None:
        os.close(self.fd)
        self.fd = -1

    @property
    def abandoned(self) -> bool:
        """The worker is gone. One that only wants no more of this instance has closed one direction."""
        return any(event & select.POLLHUP for _, event in self._readable.poll(0))

    def receive_start(self) -> tuple[Any, list[int]] | None:
        """Metadata and file descriptors of the START frame; None when the worker has closed its end."""
        with socket.socket(fileno=os.dup(self.fd)) as sock:
            data, ancillary, _, _ = sock.recvmsg(_READ, socket.CMSG_LEN(8), socket.MSG_CMSG_CLOEXEC)
        if not data:
            return None
        self._pending = data
        frame = self.receive()
        return frame and (frame[1], [fd for _, _, raw in ancillary for fd in memoryview(raw).cast("i")])

    def receive_answer(self) -> Frame | None:
        """As `receive`, which gets the events that are met here."""
        while (frame := self._receive()) is not None and frame[0] != ANSWER:
            self._kept.append(frame)
        return frame

    def receive(self) -> Frame | None:
        """The next frame; None when the worker has closed its end. Blocks."""
        return self._kept.popleft() if self._kept else self._receive()

    def _receive(self) -> Frame | None:
        """Reads a frame.

        It waits in `poll`: a blocked read is woken once more for every answer that the worker takes, since the socket
        is then writable, and each wake costs the worker and this process a switch.
        """
        data = self._pending
        if not data:
            self._readable.poll()
            data = os.read(self.fd, _READ)
        while True:
            if (frame := self._split(data)) is not None:
                return frame
            missing = self._missing(data)
            more = os.read(self.fd, _READ) if missing <= _READ else self._read_exactly(missing)
            if not more:
                return None
            data += more

    def feed(self, data: bytes) -> list[Frame]:
        """All whole frames in what was read so far; for event loops."""
        if self._short:
            self._gathered.append(data)
            self._short -= len(data)
            if self._short > 0:
                return []
            data = b"".join(self._gathered)
            self._gathered.clear()
        elif self._pending:
            data = self._pending + data
        frames = []
        while (frame := self._split(data)) is not None:
            frames.append(frame)
            data = self._pending
        self._pending, self._short = b"", 0
        if data:
            self._gathered.append(data)
            self._short = self._missing(data)
        return frames

    def _split(self, data: bytes) -> Frame | None:
        """Takes the first frame off ``data`` and leaves the rest as pending; None if it is not whole."""
        if len(data) < _HEAD.size:
            return None
        kind, meta, payload = _HEAD.unpack_from(data)
        body = _HEAD.size + meta
        end = body + payload
        if len(data) < end:
            return None
        self._pending = data[end:]
        return kind, decode(data[_HEAD.size : body]), data[body:end]

    @staticmethod
    def _missing(data: bytes) -> int:
        if len(data) < _HEAD.size:
            return 1
        _, meta, payload = _HEAD.unpack_from(data)
        return cast(int, _HEAD.size + meta + payload - len(data))

    def _read_exactly(self, size: int) -> bytes:
        whole = bytearray(size)
        view = memoryview(whole)
        while view:
            read = os.readv(self.fd, [view])
            if not read:
                return b""
            view = view[read:]
        return bytes(whole)
