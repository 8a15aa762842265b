"""``sys.stdout`` and ``sys.stderr`` of user code: whole lines, each with the invocation that wrote it.

File descriptors 1 and 2 stay what they were, pipes to the worker, for C code, subprocesses and the fault handler; only
what Python prints takes the way over the socket, where it can say which call it belongs to.
"""

import io
import os
import sys
from contextvars import ContextVar
from threading import RLock
from typing import Any

from mayfly_runtime import wire

invocation: ContextVar[str] = ContextVar("invocation", default="")

_LONGEST = 32768  # a line beyond it is cut


class LineWriter(io.BufferedIOBase):
    """The binary layer, and the only one in which anything waits: for the end of its line."""

    def __init__(self, channel: wire.Channel, stream: int, output: "Output") -> None:
        self._channel: wire.Channel | None = channel
        self._stream = stream
        self._output = output
        self._partial = b""
        self._writing = RLock()

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._stream

    def write(self, data: bytes) -> int:  # type: ignore[override]  # any buffer, as BufferedIOBase has it
        data = bytes(data)
        with self._writing:
            end = data.rfind(b"\n") + 1
            if end:
                self._send(self._partial + data[:end])
                self._partial = data[end:]
            else:
                self._partial += data
            if self._partial:
                self._output.unfinished = True
            if len(self._partial) > _LONGEST:
                self.end_line()
        return len(data)

    def end_line(self) -> None:
        """Sends what has no line end yet: the call that wrote it is over."""
        with self._writing:
            if self._partial:
                partial, self._partial = self._partial, b""
                self._send(partial + b"\n")

    def detach_channel(self) -> None:
        """In a process that user code forked: the socket is not its own, the pipe is."""
        self._channel = None
        self._writing = RLock()  # another thread of the parent may have held it

    def _send(self, lines: bytes) -> None:
        if self._channel is None:
            os.write(self._stream, lines)
            return
        meta = [self._stream, invocation.get() or self._output.alone]
        for start in range(0, len(lines), _LONGEST):
            part = lines[start : start + _LONGEST]
            self._channel.send(wire.LOG, meta, part if part.endswith(b"\n") else part + b"\n")


def _text_over(raw: Any) -> io.TextIOWrapper:
    return io.TextIOWrapper(raw, encoding="utf-8", errors="backslashreplace", write_through=True)


class Output:
    """Both streams of one instance."""

    def __init__(self, channel: wire.Channel) -> None:
        self.alone = ""  # whose call it is, in an instance that serves one at a time, in whatever thread
        self.unfinished = False  # something may wait for the end of its line
        self._channel = channel
        self._raw = [LineWriter(channel, stream, self) for stream in (wire.STDOUT, wire.STDERR)]
        self._text = [_text_over(raw) for raw in self._raw]
        sys.stdout, sys.stderr = self._text
        sys.__stdout__, sys.__stderr__ = self._text  # type: ignore[misc]  # final, but not here

    def guard_forks(self) -> None:
        """From now on a child that is forked is user code's."""
        os.register_at_fork(after_in_child=self._forked)

    def flush(self) -> None:
        self.unfinished = False
        for raw in self._raw:
            raw.end_line()

    def _forked(self) -> None:
        for raw in self._raw:
            raw.detach_channel()
        self._channel.close()
