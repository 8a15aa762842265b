"""A command on a terminal of its own, as a person has one: keys go in, what is on the screen comes out."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path


class PseudoTerminal:
    def __init__(self, process: subprocess.Popen[bytes], ours: int) -> None:
        self.process = process
        self.output = b""
        self._ours = ours

    def type(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def shows(self, pattern: str, timeout_s: float = 20) -> re.Match[str]:
        """Wait for something that was not there when this was called last."""
        seen = len(self.output)
        until = time.monotonic() + timeout_s
        while (found := re.search(pattern, self.output[seen:].decode("utf-8", "replace"))) is None:
            left = until - time.monotonic()
            assert left > 0, f"{pattern!r} does not show in {timeout_s} s:\n{self.output.decode('utf-8', 'replace')}"
            self._read(left)
        return found

    def ends(self, timeout_s: float = 10) -> int:
        """The exit code; all that it wrote is in `output` then."""
        until = time.monotonic() + timeout_s
        while self.process.poll() is None and time.monotonic() < until:
            self._read(0.05)
        while self._read(0):
            pass
        return self.process.wait(timeout=0)

    def attributes(self) -> list[object]:
        return termios.tcgetattr(self._ours)

    def _read(self, timeout_s: float) -> bool:
        if not select.select([self._ours], [], [], timeout_s)[0]:
            return False
        chunk = b""
        with suppress(OSError):  # nobody has the other end any more
            chunk = os.read(self._ours, 65536)
        self.output += chunk
        return bool(chunk)


@contextmanager
def terminal(
    command: Sequence[str | Path], environ: Mapping[str, str], *, columns: int = 120, lines: int = 40
) -> Iterator[PseudoTerminal]:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def take() -> None:
        os.setsid()
        fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)

    environ = {name: value for name, value in environ.items() if name not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(
        command, env={"TERM": "xterm", **environ}, stdin=theirs, stdout=theirs, stderr=theirs, preexec_fn=take
    )
    try:
        yield PseudoTerminal(process, ours)
    finally:
        process.kill()
        process.wait()
        os.close(theirs)
        os.close(ours)
