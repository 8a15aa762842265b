"""Versions whose last order found no memory on any node, the one that has waited longest first."""

from collections.abc import Callable

from mayfly_router.pool import Pool


class Shortage:
    def __init__(self) -> None:
        self._pools: dict[Pool, None] = {}

    def add(self, pool: Pool) -> None:
        self._pools.setdefault(pool)

    def relieved(self, free_mb: int, wants: Callable[[Pool], bool]) -> list[Pool]:
        """A node has so much memory left: these may try again at once, as many as there is room for. Who wants nothing
        any more, or may not have it, is not asked again."""
        fitting = []
        for pool in list(self._pools):
            if not wants(pool):
                del self._pools[pool]
            elif pool.spec.memory_mb <= free_mb:
                free_mb -= pool.spec.memory_mb
                del self._pools[pool]
                fitting.append(pool)
        return fitting
