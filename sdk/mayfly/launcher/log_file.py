"""A log of bounded size: when the file is full it becomes ``<name>.1``, and what was there before is gone."""

from collections import deque
from pathlib import Path

MAX_BYTES = 10 * 2**20


class LogFile:
    def __init__(self, path: Path, max_bytes: int = MAX_BYTES) -> None:
        self.path = path
        self._max_bytes = max_bytes
        self._file = path.open("ab", buffering=0)

    def write(self, chunk: bytes) -> None:
        self._file.write(chunk)
        if self._file.tell() > self._max_bytes:
            self.close()
            self.path.replace(self.path.with_suffix(".log.1"))
            self._file = self.path.open("ab", buffering=0)

    def close(self) -> None:
        self._file.close()


def tail(path: Path, lines: int = 20, width: int = 300) -> str:
    """The last lines of a log, the long ones cut; "" when there is none."""
    try:
        with path.open(errors="replace") as file:
            last = deque(file, maxlen=lines)
    except FileNotFoundError:
        return ""
    return "\n".join(line.rstrip()[:width] for line in last)
