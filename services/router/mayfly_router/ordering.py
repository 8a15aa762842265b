"""Events of one key run one after another, those of different keys side by side."""

from collections import deque

from mayfly_proto import headers
from mayfly_router.delivery import Delivery

_TOKEN = "subject."  # noqa: S105 - a token of a subject


class Lanes:
    """One lane for each key that has an event under way."""

    def __init__(self, ordered: str) -> None:
        self.ordered = ordered
        self._waiting: dict[str, deque[Delivery]] = {}

    def enter(self, delivery: Delivery) -> bool:
        """Whether it may run now; if not, `leave` hands it out in its turn."""
        delivery.key = key(self.ordered, delivery)
        lane = self._waiting.get(delivery.key)
        if lane is None:
            self._waiting[delivery.key] = deque()
            return True
        lane.append(delivery)
        return False

    def recall(self, delivery: Delivery) -> None:
        """One that runs by another router's order: those of its key wait for it."""
        delivery.key = key(self.ordered, delivery)
        self._waiting.setdefault(delivery.key, deque())

    def leave(self, delivery: Delivery) -> Delivery | None:
        """It is settled for good. Returns the next one of its key."""
        lane = self._waiting.get(delivery.key)
        if lane:
            return lane.popleft()
        self._waiting.pop(delivery.key, None)
        return None

    def clear(self) -> None:
        self._waiting.clear()


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
