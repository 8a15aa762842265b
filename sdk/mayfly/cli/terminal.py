"""A terminal that is drawn anew each second, and given back as it was."""

import os
import select
import shutil
import sys
import termios
import time
import tty
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import click

_ENTER = "\x1b[?1049h\x1b[?25l"  # the other screen, no cursor
_LEAVE = "\x1b[?25h\x1b[?1049l"
_LOCAL_MODES = 3  # among the attributes of a terminal
CTRL_C = "\x03"
_TOP, _REST_OF_LINE, _REST = "\x1b[H", "\x1b[K", "\x1b[J"


def can_redraw() -> bool:
    """Not into a pipe or a file, nor on a terminal that says it cannot."""
    return sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"


@contextmanager
def screen() -> Iterator[None]:
    """Inside, `draw` has the whole screen, and keys are read one by one."""
    keys = sys.stdin.fileno() if sys.stdin.isatty() else None
    before = termios.tcgetattr(keys) if keys is not None else None
    try:
        if keys is not None:
            tty.setcbreak(keys)
            own = termios.tcgetattr(keys)
            own[_LOCAL_MODES] &= ~termios.ISIG  # Ctrl-C is a key like others: no signal in the middle of something
            termios.tcsetattr(keys, termios.TCSADRAIN, own)
        _write(_ENTER)
        yield
    finally:
        _write(_LEAVE)
        if keys is not None and before is not None:
            termios.tcsetattr(keys, termios.TCSADRAIN, before)


def height() -> int:
    return shutil.get_terminal_size().lines


def draw(lines: Sequence[str]) -> None:
    """From the top; what is too wide is cut."""
    width = shutil.get_terminal_size().columns
    _write(_TOP + "\n".join(f"{_cut(line, width)}{_REST_OF_LINE}" for line in lines) + _REST)


def pressed(keys: str, seconds: float) -> bool:
    """Whether one of ``keys`` is pressed within so long. Without a keyboard none is."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        if not sys.stdin.isatty():
            time.sleep(left)
        elif select.select([sys.stdin], [], [], left)[0] and os.read(sys.stdin.fileno(), 1).decode("latin-1") in keys:
            return True
    return False


def _cut(line: str, width: int) -> str:
    """Headings are bold; what makes them so takes no room."""
    plain = click.unstyle(line)
    if len(plain) <= width:
        return line
    return plain[:width] if plain == line else click.style(plain[:width], bold=True)


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
