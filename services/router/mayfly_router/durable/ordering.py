"""Events of one key run one after another, those of different keys side by side."""

from collections import deque
from collections.abc import Iterator

from mayfly_proto import headers
from mayfly_router.durable.delivery import Delivery

_TOKEN = "subject."  # noqa: S105 - a token of a subject


class _Lane:
    __slots__ = ("running", "waiting")

    def __init__(self) -> None:
        self.running: set[Delivery] = set()  # one, as a rule; what another router began with may be more
        self.waiting: deque[Delivery] = deque()


class Lanes:
    """One lane for each key that has an event under way."""

    def __init__(self, ordered: str) -> None:
        self.ordered = ordered
        self._lanes: dict[str, _Lane] = {}

    def enter(self, delivery: Delivery) -> bool:
        """Whether it may run now; if not, `leave` hands it out in its turn."""
        lane = self._lane(delivery)
        if lane.running:
            lane.waiting.append(delivery)
            return False
        lane.running.add(delivery)
        return True

    def recall(self, delivery: Delivery) -> None:
        """One that runs by another router's order: those of its key wait for it."""
        lane = self._lane(delivery)
        if delivery not in lane.waiting:
            lane.running.add(delivery)

    def leave(self, delivery: Delivery) -> Delivery | None:
        """It is settled for good. Returns the next one of its key; none when this one did not run: it was refused at
        the door, put off, or taken back."""
        lane = self._lanes.get(delivery.key)
        if lane is None or delivery not in lane.running:
            return None
        lane.running.discard(delivery)
        if lane.running:
            return None
        if not lane.waiting:
            del self._lanes[delivery.key]
            return None
        following = lane.waiting.popleft()
        lane.running.add(following)
        return following

    def waiting(self) -> Iterator[Delivery]:
        for lane in self._lanes.values():
            yield from lane.waiting

    def remove(self, delivery: Delivery) -> None:
        """One that waits is not to have its turn."""
        self._lanes[delivery.key].waiting.remove(delivery)

    def _lane(self, delivery: Delivery) -> _Lane:
        delivery.key = key(self.ordered, delivery)
        return self._lanes.setdefault(delivery.key, _Lane())


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
