"""What one version has on one node: slots by the Route Cache, calls in them by our own count."""

from typing import TYPE_CHECKING

from mayfly_router.nodes import Node

if TYPE_CHECKING:
    from mayfly_router.pool import Pool


class Share:
    __slots__ = ("ahead", "busy", "closed", "done_at", "epoch", "free", "instances", "node", "pool", "slots")

    def __init__(self, pool: "Pool", node: Node) -> None:
        self.pool = pool
        self.node = node
        self.epoch = 0  # of the node that wrote the route
        self.instances: list[str] = []
        self.slots = 0
        self.busy = 0  # slots our calls are in
        self.ahead = 0  # durable calls that lie ready there, behind those in the slots
        self.done_at = 0.0  # when calls that lay ready were done last
        self.closed = False  # the node refused a call: wait for its next word
        self.free = False  # on the pool's list of shares with a free slot

    @property
    def valid(self) -> bool:
        return self.epoch == self.node.epoch > 0

    @property
    def open(self) -> bool:
        node = self.node
        return node.usable and not self.closed and self.epoch == node.epoch and self.pool not in node.left

    @property
    def ready(self) -> int:
        """Instances there that take calls."""
        return len(self.instances) if self.open else 0

    @property
    def kept(self) -> int:
        """Instances there that the function may want to keep, although the node may not answer just now."""
        return len(self.instances) if self.valid and self.pool not in self.node.left else 0

    @property
    def occupied(self) -> int:
        """The fewest instances that our calls there can be in."""
        return -(-self.busy // self.pool.spec.concurrency)

    @property
    def held(self) -> int:
        """Instances that exist there: those ready, and those that left the Route Cache with calls still in them."""
        return max(self.occupied, len(self.instances) if self.valid else 0)

    @property
    def idle(self) -> int:
        return self.held - self.occupied if self.open else 0

    def __repr__(self) -> str:
        return f"<Share {self.node.name} {self.busy}/{self.slots}{'' if self.open else ' shut'}>"
