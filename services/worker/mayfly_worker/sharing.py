"""Askers for the same thing at the same time share one run of what gets it."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Shared(Generic[K, V]):
    """An asker that is cancelled does not take the result from the others."""

    def __init__(self, run: Callable[[K], Awaitable[V]]) -> None:
        self._run = run
        self._running: dict[K, asyncio.Future[V]] = {}

    async def __call__(self, key: K) -> V:
        running = self._running.get(key)
        if running is None:
            running = self._running[key] = asyncio.ensure_future(self._run(key))
            running.add_done_callback(lambda done: self._over(key, done))
        return await asyncio.shield(running)

    def _over(self, key: K, done: "asyncio.Future[V]") -> None:
        del self._running[key]
        if not done.cancelled():
            done.exception()  # seen, also when every asker has gone
