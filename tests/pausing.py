"""Processes that stand still for a while, as in a debugger, a swapping machine or a paused container."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager


def pause(child: int) -> None:
    """Returns when none of its threads runs any more: the signal alone leaves a busy one time for a last answer."""
    os.kill(child, signal.SIGSTOP)
    os.waitid(os.P_PID, child, os.WSTOPPED)


def resume(child: int) -> None:
    os.kill(child, signal.SIGCONT)


@contextmanager
def paused(child: int) -> Iterator[None]:
    pause(child)
    try:
        yield
    finally:
        resume(child)
