"""Warnings that a peer could cause by the thousand: each kind is logged once a second at most, with their number."""

import time
from collections.abc import Callable

import structlog

INTERVAL_S = 1.0


class Complaints:
    def __init__(self, log: structlog.typing.FilteringBoundLogger, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._clock = clock
        self._kinds: dict[str, tuple[float, int]] = {}  # event → when last logged, how many since

    def __call__(self, event: str, error: str) -> None:
        now = self._clock()
        logged, since = self._kinds.get(event, (-INTERVAL_S, 0))
        if now - logged < INTERVAL_S:
            self._kinds[event] = (logged, since + 1)
            return
        self._kinds[event] = (now, 0)
        self._log.warning(event, error=error, further=since)
