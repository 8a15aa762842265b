"""How many instances a function may have while there is not enough for all.

The leading scaler says it (weighted max-min over what functions ask for); the owner of a function sees to it. A
function that has as many orders nothing new, and one that has more lets the rest give way: see `yielding`.

A share goes up and down by one as others come and go. An instance that was given up is not ordered again at the next
word: a function takes back what it had to leave to others only when nobody has wanted it for a while. Beside thirty
small functions one that wants five times the cluster stops and starts a third less for it, and nobody waits longer.

Whatever the share, one instance is never too many: the word may be older than the call that waits, and a share below
one instance would be no instance for ever.
"""

from collections.abc import Iterable
from math import inf

from mayfly_proto.records import Shares
from mayfly_router import yielding
from mayfly_router.pool import Pool
from mayfly_router.share import Share

VALID_S = 3.0  # for which the scaler's word holds
LINGER_S = 2.5  # for which what was given up is left to others: longer than a share takes to go down and up again
LINGER_COLD_STARTS = 4.0  # the same in cold starts of the function, where those take long


class Allotments:
    """The scaler's last word, about all functions."""

    def __init__(self) -> None:
        self._shares: dict[str, int] = {}
        self._epoch = 0
        self._heard = -inf

    def hear(self, said: Shares, now: float) -> Iterable[str]:
        """Returns the functions for which something may have changed. A scaler that leads no longer is not heard."""
        if said.epoch < self._epoch and self.in_force(now):
            return ()
        about = self._shares.keys() | said.shares.keys()
        self._shares, self._epoch, self._heard = said.shares, said.epoch, now
        return about

    def in_force(self, now: float) -> bool:
        """There is not enough for all."""
        return now - self._heard <= VALID_S

    def of(self, function: str, now: float) -> int | None:
        """Instances, at least one. None: as many as it likes."""
        count = self._shares.get(function)
        return max(1, count) if count is not None and self.in_force(now) else None


class Allotment:
    """One function's part of it, and what it has given up of late."""

    def __init__(self, function: str, all_: Allotments) -> None:
        self._function = function
        self._all = all_
        self._level = 0  # instances to which it came down
        self._level_until = -inf

    def in_force(self, now: float) -> bool:
        return self._all.in_force(now)

    def count(self, now: float) -> int | None:
        """Instances that it may keep; None: all of them."""
        return self._all.of(self._function, now)

    def cap(self, most: int, now: float) -> int:
        """Instances up to which it may order; ``most`` is the function's own limit."""
        count = self.count(now)
        if count is None:
            return most
        return min(most, count, self._level) if now < self._level_until else min(most, count)

    def trim(self, pools: list[Pool], now: float) -> list[tuple[Share, int]]:
        """Come down to what it may keep, the first versions first. Returns how many instances are to be stopped where,
        now."""
        count = self.count(now)
        ready = sum(pool.ready for pool in pools)
        gave_up = yielding.go(pools, 0 if count is None else max(0, ready - count), now)
        if count is not None and (gave_up or (now < self._level_until and count <= self._level)):
            self._level = count
            cold_s = max(pool.starts.cold_s for pool in pools)
            self._level_until = now + max(LINGER_S, LINGER_COLD_STARTS * cold_s)
        return yielding.due([share for pool in pools for share in pool.shares.values() if share.open], now)

    def __repr__(self) -> str:
        return f"<Allotment of {self._function}, came down to {self._level}>"
