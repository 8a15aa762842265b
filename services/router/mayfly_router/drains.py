"""When a version leaves a node that is to be empty.

Nothing new is placed there, and what is there counts for nothing in the minimum, so the owner orders that elsewhere. It
goes on sending calls there until it has what it must have on nodes that stay, and then tells the node to stop the rest:
idle instances go, busy ones after their calls. A version without a minimum leaves at once. So does one that cannot have
its minimum elsewhere before it has left, because its limit counts what is on the node; but only if there is another
node. Where there is none, service goes on until the worker ends it.

The word to stop may be lost with a connection, so it is said again while the Route Cache has instances there.
"""

from collections.abc import Iterable

from mayfly_router.function import Function, Stopping
from mayfly_router.nodes import Node
from mayfly_router.pool import Pool

AGAIN_S = 2.0
MOST = 250  # at a time, so that others have their turn


def leave(nodes: Iterable[Node], functions: dict[str, Function], now: float) -> list[Stopping]:
    """Have versions leave the nodes that they can leave now; the caller tells the nodes."""
    nodes = [node for node in nodes if node.usable]
    draining = [node for node in nodes if node.draining]
    elsewhere = len(draining) < len(nodes)
    stops = []
    for node in draining:
        for share in list(node.shares):
            pool = share.pool
            left_at = node.left.get(pool)
            function = functions.get(pool.name)
            if left_at is not None:
                leaves = bool(share.instances) and now - left_at >= AGAIN_S
            else:
                leaves = function is not None and can_leave(function, pool, elsewhere, now)
            if leaves:
                pool.leave(share, now)
                stops.append(Stopping(pool, node.name, -1))
                if len(stops) == MOST:
                    return stops
    return stops


def can_leave(function: Function, pool: Pool, elsewhere: bool, now: float) -> bool:
    """``elsewhere``: there are nodes that stay."""
    if pool is not function.current:
        return True
    staying = sum(share.ready for share in pool.shares.values() if not share.node.draining)
    if staying >= function.minimum:
        return True
    return elsewhere and function.room(now) <= 0 and not pool.starts.staying
