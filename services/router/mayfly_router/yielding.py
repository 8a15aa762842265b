"""Instances that give way to other functions.

Those that are idle go first. After them those that are busy, and no call is cut off: a version owes so many, the next
slots that free are given to no call, and their instances are stopped. It would take longer to choose some now and to
wait for their calls: what has run for long may well run for longer.

That is for instances with one slot. Where one takes several calls at once, the router cannot tell which of them empties
first; the node chooses those with the fewest calls, and they get no more.

`Pool.owed` counts those that are still to be found, `Share.yielding` those that are found and in the Route Cache yet,
`Share.told` those of them that the node has been told to stop. A node that does not do it within a while has not heard
it.
"""

from collections.abc import Iterable
from math import ceil

from mayfly_router.pool import Pool
from mayfly_router.share import Share

UNHEARD_S = 3.0  # a node that has stopped nothing for so long was told in vain


def go(pools: list[Pool], count: int, now: float) -> int:
    """So many are to go besides those that have been found, the first versions first. Returns how many of them are
    busy, as far as one can tell."""
    for pool in pools:
        pool.owed = 0
        for share in list(pool.shares.values()):
            count -= _give_way(share, min(count, share.idle), now)
    busy = 0
    for pool in pools:
        chosen = min(count - busy, pool.ready)
        if chosen > 0:
            busy += chosen
            _owe(pool, chosen, now)
    return busy


def due(shares: Iterable[Share], now: float) -> list[tuple[Share, int]]:
    """How many instances are to be stopped where, now. They count as told from here on."""
    stops = []
    for share in shares:
        if share.told and now - share.told_at > UNHEARD_S:
            share.told = 0
        count = share.yielding - share.told
        if count > 0:
            share.told += count
            share.told_at = now
            stops.append((share, count))
    return stops


def _owe(pool: Pool, count: int, now: float) -> None:
    if pool.spec.concurrency == 1:
        pool.owed = count
        return
    ready, left = pool.ready, count
    for share in list(pool.shares.values()):  # of every node in proportion: nobody knows where they are empty first
        left -= _give_way(share, min(left, ceil(share.ready * count / ready)), now)


def _give_way(share: Share, count: int, now: float) -> int:
    if count <= 0:
        return 0
    share.give_way(count)
    share.pool.refresh(share, now)
    return count
