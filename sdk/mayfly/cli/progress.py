"""How far a long piece of work is: a bar on a terminal, nothing elsewhere."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_WORTH_SHOWING = 1 << 20  # bytes


@contextmanager
def bar(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """Gives what is to be called with each further number of bytes."""
    if total < _WORTH_SHOWING or not sys.stderr.isatty():
        yield lambda size: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

    with Progress(
        TextColumn(label), BarColumn(), DownloadColumn(), console=Console(stderr=True), transient=True
    ) as progress:
        task = progress.add_task(label, total=total)
        yield lambda size: progress.advance(task, size)
