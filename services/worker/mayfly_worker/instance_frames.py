"""What comes from an instance, cut into frames and lines.

A process that runs user code wrote it: nothing is taken on trust.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from mayfly_proto import codec

EVENT, READY, INIT_ERROR, RESULT, ERROR, LOG, START, ASK, ANSWER = 1, 2, 3, 4, 5, 6, 7, 8, 9

_LONGEST_FRAME = 1 << 28
_LONGEST_LINE = 32768
_HEADER_LINES = re.compile(rb"(?:(?!(?i:nats-))[!#$%&'*+.^_`|~0-9A-Za-z-]+: [^\r\n\0]*\r\n)*")


class Broken(Exception):
    """A frame that is not in the contract."""


class Frames:
    """Cuts a stream of bytes into frames: kind, metadata still packed, payload."""

    def __init__(self) -> None:
        self._rest: list[bytes] = []  # joined once, when the frame is whole: adding up a large one would be quadratic
        self._missing = 0  # at least so many bytes of it are still to come

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes, bytes]]:
        """Raises `Broken`."""
        if self._missing:
            self._rest.append(data)
            self._missing -= len(data)
            if self._missing > 0:
                return
            data = b"".join(self._rest)
            self._rest.clear()
            self._missing = 0
        start, end, head = 0, len(data), codec.INSTANCE_HEAD.size
        stop = head
        while end - start >= head:
            kind, meta, payload = codec.INSTANCE_HEAD.unpack_from(data, start)
            if meta + payload > _LONGEST_FRAME:
                raise Broken(f"frame of {meta + payload} bytes")
            middle = start + head + meta
            stop = middle + payload
            if stop > end:
                break
            yield kind, data[start + head : middle], data[middle:stop]
            start = stop
            stop += head
        if start < end:
            self._rest.append(data[start:])
            self._missing = stop - end


class Lines:
    """Cuts a stream of bytes into whole lines, of which none is longer than the bound."""

    def __init__(self, stream: str) -> None:
        self.stream = stream
        self._partial = b""

    def feed(self, data: bytes) -> bytes:
        data = self._partial + data
        end = data.rfind(b"\n") + 1
        self._partial = data[end:]
        whole = data[:end]
        if len(self._partial) > _LONGEST_LINE:
            whole += self.rest()
        return whole

    def rest(self) -> bytes:
        rest, self._partial = self._partial, b""
        return rest + b"\n" if rest else b""


def _decoder(kind: Any) -> Callable[[bytes], Any]:
    return msgspec.msgpack.Decoder(kind).decode


decode_result = _decoder(tuple[int, int, bytes | None])
decode_error = _decoder(tuple[int, str, str, str])
decode_init_error = _decoder(tuple[str, str])
decode_ready = _decoder(dict[str, float])
decode_log = _decoder(tuple[int, str])
decode_ask = _decoder(tuple[int, int, str, msgspec.Raw])


def check_header_lines(lines: bytes) -> None:
    """They go into a reply's header block as they are. Raises `Broken`."""
    if not _HEADER_LINES.fullmatch(lines):
        raise Broken("malformed header lines")
