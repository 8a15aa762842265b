"""What one version has on one node: slots by the Route Cache, calls in them by our own count."""

from typing import TYPE_CHECKING

from mayfly_proto.records import Route
from mayfly_router.nodes import Node

if TYPE_CHECKING:
    from mayfly_router.pool import Pool


class Share:
    __slots__ = (
        "ahead",
        "busy",
        "closed",
        "done_at",
        "epoch",
        "free",
        "instances",
        "node",
        "offered",
        "pool",
        "slots",
        "told",
        "told_at",
        "yielding",
    )

    def __init__(self, pool: "Pool", node: Node) -> None:
        self.pool = pool
        self.node = node
        self.epoch = 0  # of the node that wrote the route
        self.instances: list[str] = []
        self.offered = 0  # slots by the Route Cache
        self.slots = 0  # without those of instances that give way
        self.busy = 0  # slots our calls are in
        self.ahead = 0  # durable calls that lie ready there, behind those in the slots
        self.done_at = 0.0  # when calls that lay ready were done last
        self.closed = False  # the node refused a call: wait for its next word
        self.free = False  # on the pool's list of shares with a free slot
        self.yielding = 0  # instances that give way to other functions: see `yielding`
        self.told = 0
        self.told_at = 0.0

    def set_route(self, route: Route | None) -> None:
        """The Route Cache's word."""
        before, self.instances, self.offered = self.instances, [], 0
        if route is not None:
            if route.epoch != self.epoch:
                before, self.yielding = [], 0
            self.epoch, self.instances, self.offered = route.epoch, route.instances, route.slots
        gone = len(set(before).difference(self.instances))
        self.yielding = min(max(0, self.yielding - gone), len(self.instances))
        self.told = min(max(0, self.told - gone), self.yielding)
        self._count_slots()

    def give_way(self, count: int) -> None:
        """So many more of its instances are to go, and no call goes there any more."""
        self.yielding += count
        self._count_slots()

    def _count_slots(self) -> None:
        self.slots = max(0, self.offered - self.yielding * self.pool.spec.concurrency)

    @property
    def valid(self) -> bool:
        return self.epoch == self.node.epoch > 0

    @property
    def open(self) -> bool:
        node = self.node
        return node.usable and not self.closed and self.epoch == node.epoch and self.pool not in node.left

    @property
    def kept(self) -> int:
        """Instances there that the function may want to keep, although the node may not answer just now."""
        return len(self.instances) - self.yielding if self.valid and self.pool not in self.node.left else 0

    @property
    def ready(self) -> int:
        """Instances there that take calls."""
        return len(self.instances) - self.yielding if self.open else 0

    @property
    def takes(self) -> bool:
        """A call may be sent there now."""
        return self.open and not self.node.paused

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
        """Instances that could be stopped at once."""
        return max(0, self.held - self.occupied - self.yielding) if self.open else 0

    def __repr__(self) -> str:
        return f"<Share {self.node.name} {self.busy}/{self.slots}{'' if self.open else ' shut'}>"
