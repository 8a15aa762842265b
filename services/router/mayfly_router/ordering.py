"""Events of one key run one after another, those of different keys side by side."""

from collections import deque

from mayfly_proto import headers
from mayfly_router.delivery import Delivery

_TOKEN = "subject."  # noqa: S105 - a token of a subject


class Lanes:
    """One lane for each key that has an event under way."""

    def __init__(self, ordered: str) -> None:
        self.ordered = ordered
        self._under_way: dict[str, Delivery] = {}
        self._waiting: dict[str, deque[Delivery]] = {}

    def enter(self, delivery: Delivery) -> bool:
        """Whether it may run now; if not, `leave` hands it out in its turn."""
        delivery.key = key(self.ordered, delivery)
        if self._under_way.setdefault(delivery.key, delivery) is delivery:
            return True
        self._waiting.setdefault(delivery.key, deque()).append(delivery)
        return False

    def recall(self, delivery: Delivery) -> None:
        """One that runs by another router's order: those of its key wait for it."""
        delivery.key = key(self.ordered, delivery)
        self._under_way.setdefault(delivery.key, delivery)

    def leave(self, delivery: Delivery) -> Delivery | None:
        """It is settled for good. Returns the next one of its key; none if it was not this one's turn."""
        key, lane = delivery.key, self._waiting.get(delivery.key)
        if self._under_way.get(key) is not delivery:
            if lane and delivery in lane:
                lane.remove(delivery)
            return None
        if not lane:
            del self._under_way[key]
            self._waiting.pop(key, None)
            return None
        following = self._under_way[key] = lane.popleft()
        return following


def key(ordered: str, delivery: Delivery) -> str:
    """``subject.3`` is a token, from 1, of the subject that it was published on; anything else names a header. What has
    no such token or header has the key ``""``."""
    if ordered.startswith(_TOKEN):
        tokens = delivery.subject.split(".")
        number = int(ordered.removeprefix(_TOKEN))
        return tokens[number - 1] if number <= len(tokens) else ""
    wanted = ordered.lower()
    found = {name.lower(): value for name, value in headers.parse(delivery.headers).items()}
    return found.get(wanted, "")
