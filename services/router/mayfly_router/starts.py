"""Instances of one version that are ordered and not ready, and when to try again after failure."""

from collections.abc import Iterable

from mayfly_proto.errors import CallError
from mayfly_router import activation

START_LIMIT_S = 60.0  # an instance that a node accepted and that says nothing for so long does not come
SILENT_LIMIT_S = 2.0  # the same when the node reports that nothing of the version is starting there
DOUBT_LIMIT_S = 5.0  # the same when it is not known whether any node accepted it
FIRST_RETRY_S = 0.05  # after an order that found no place; doubles up to the last
LAST_RETRY_S = 0.5
SMOOTHING = 0.2  # weight of a new sample in a mean


class Start:
    __slots__ = ("at", "covers", "leaving", "limit", "node", "placed_at")

    def __init__(self, at: float, node: str = "") -> None:
        self.at = at
        self.node = node  # "": not placed yet
        self.placed_at = at
        self.covers = True  # False: perhaps nobody took the order; it counts for the limit only
        self.leaving = False  # its node drains, so it may come to nothing, or will not stay
        self.limit = at + START_LIMIT_S


class Starts:
    """``len()`` is how many may yet become instances, `covering` how many of them waiting calls may count on."""

    def __init__(self) -> None:
        self.cold_s = 0.03  # mean time from order to ready
        self.succeeded = 0
        self.blocked = 0  # instances of the last order that found no place; 0: one has found some since
        self.failures = 0  # in a row
        self.failure: CallError | None = None  # the last of them
        self.refusals = 0  # orders in a row that found no place
        self.retry_at = 0.0
        self.ordered_at = float("-inf")
        self._pending: dict[str, Start] = {}

    def __len__(self) -> int:
        return len(self._pending)

    def __contains__(self, instance: str) -> bool:
        return instance in self._pending

    @property
    def covering(self) -> int:
        return sum(start.covers and not start.leaving for start in self._pending.values())

    @property
    def staying(self) -> int:
        """How many may become instances on nodes that do not drain."""
        return sum(not start.leaving for start in self._pending.values())

    @property
    def nodes(self) -> set[str]:
        return {start.node for start in self._pending.values() if start.node}

    def order(self, instances: Iterable[str], now: float) -> None:
        self.ordered_at = now
        for instance in instances:
            self._pending[instance] = Start(now)

    def adopt(self, instance: str, node: str, now: float) -> None:
        """It starts there by another owner's order."""
        self._pending.setdefault(instance, Start(now, node))

    def placed(self, instance: str, node: str, now: float) -> None:
        self.refusals = self.blocked = 0
        if start := self._pending.get(instance):
            start.node = node
            start.placed_at = now

    def refused(self, instances: Iterable[str], now: float, longest_s: float = LAST_RETRY_S) -> None:
        """No node took them. It is not worth trying again for at most so long."""
        for instance in instances:
            self._pending.pop(instance, None)
        self._back_off(now, longest_s)

    def retry(self) -> None:
        """There is a place now; a version whose starts fail is left alone all the same."""
        if self.refusals and not self.failures:
            self.refusals, self.retry_at = 0, 0.0

    def doubted(self, instances: Iterable[str], now: float) -> None:
        """Nobody answered the order: it may have been carried out or not."""
        for instance in instances:
            if start := self._pending.get(instance):
                start.covers = False
                start.limit = now + DOUBT_LIMIT_S
        self._back_off(now)

    def ready(self, instances: Iterable[str], now: float) -> None:
        """The Route Cache lists them."""
        for instance in instances:
            if start := self._pending.pop(instance, None):
                self.succeeded += 1
                self.failures = self.refusals = 0
                self.retry_at = 0.0
                self.cold_s += (1.0 if self.succeeded == 1 else SMOOTHING) * (now - start.at - self.cold_s)

    def failed(self, instance: str, failure: CallError, now: float, jitter: float) -> bool:
        """A start came to nothing. False: it was not one of ours any longer."""
        if self._pending.pop(instance, None) is None:
            return False
        self.failures += 1
        self.failure = failure
        self.retry_at = now + activation.backoff_s(self.failures, jitter)
        return True

    def on_draining(self, node: str, draining: bool) -> None:
        """The node drains, or does not any longer."""
        for start in self._pending.values():
            if start.node == node:
                start.leaving = draining

    def on(self, node: str) -> bool:
        """Some of them start there."""
        return any(start.node == node for start in self._pending.values())

    def forget_node(self, node: str) -> None:
        """The node is gone, and what was starting there; or it was told to stop it."""
        self._pending = {instance: start for instance, start in self._pending.items() if start.node != node}

    def forget_ended(self, node: str, now: float) -> None:
        """The node has nothing of this version that is not in the Route Cache: what was placed there a while ago has
        come to nothing, and the word of it was lost."""
        since = now - SILENT_LIMIT_S
        for instance, start in list(self._pending.items()):
            if start.node == node and start.placed_at < since:
                del self._pending[instance]

    def forget_late(self, now: float) -> None:
        if any(start.limit <= now for start in self._pending.values()):
            self._pending = {instance: start for instance, start in self._pending.items() if start.limit > now}

    def forget_all(self) -> None:
        self._pending.clear()

    def _back_off(self, now: float, longest_s: float = LAST_RETRY_S) -> None:
        self.retry_at = now + min(longest_s, FIRST_RETRY_S * 2 ** min(self.refusals, 10))
        self.refusals += 1
