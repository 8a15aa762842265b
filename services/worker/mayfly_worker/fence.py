"""Which router may give this node work.

Every frame carries the epoch of the members that made its router the owner. Once a newer epoch has been announced, a
router that has not noticed may still act for the functions it owns by the newer members too, and for no other: two
routers never fill the same slots.
"""

from collections.abc import Iterable

from mayfly_proto import ownership


class Fence:
    def __init__(self) -> None:
        self.epoch = 0
        self.members: frozenset[str] = frozenset()

    def renew(self, epoch: int, members: Iterable[str]) -> None:
        """The highest epoch counts, in whatever order they are announced."""
        if epoch > self.epoch:
            self.epoch = epoch
            self.members = frozenset(members)

    def admits(self, router: str, epoch: int, function: str) -> bool:
        return epoch >= self.epoch or self.owner(function) == router

    def owner(self, function: str) -> str | None:
        return ownership.owner(function, self.members)
