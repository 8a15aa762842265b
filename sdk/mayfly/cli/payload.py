"""Events as commands are given them, and results as they print them."""

import sys
from pathlib import Path

from mayfly.cli.failure import Exit, Failure


def read(given: str | None) -> bytes:
    """Text, ``@FILE``, or ``-`` for standard input."""
    if given is None:
        return b""
    if given == "-":
        return sys.stdin.buffer.read()
    if not given.startswith("@"):
        return given.encode()
    try:
        return Path(given[1:]).read_bytes()
    except OSError as error:
        raise Failure(f"cannot read {given[1:]}: {error.strerror}", Exit.USAGE) from None


def write(body: bytes) -> None:
    """As it is, and on a terminal with a line's end."""
    sys.stdout.buffer.write(body)
    if sys.stdout.isatty() and body and not body.endswith(b"\n"):
        sys.stdout.buffer.write(b"\n")
    sys.stdout.buffer.flush()
