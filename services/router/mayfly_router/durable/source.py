"""One consumer that feeds a function: what has been asked of it, what it gave that is not settled, what it still has.

Pulls overlap: new ones go out while a quarter of the window is open, so that the next events are on their way while
these run. The window follows what can run: the slots that are there and those that are coming, and for calls much
shorter than a turn-around several for each slot.
"""

from math import ceil
from typing import TYPE_CHECKING

from mayfly_proto import storage, subjects
from mayfly_proto.records import VersionSpec

if TYPE_CHECKING:
    from mayfly_router.durable.delivery import Delivery

SMALLEST_WINDOW = 16
LARGEST_WINDOW = 1024
AHEAD_S = 0.02  # of work that lies ready for each slot
AHEAD = 32  # calls of it, at most


class Source:
    def __init__(self, function: str, stream: str, consumer: str) -> None:
        self.function = function
        self.stream = stream
        self.consumer = consumer
        self.key = f"{stream}.{consumer}".encode()
        self.next_subject = subjects.consumer_next(stream, consumer).encode()
        self.letter = storage.ID_LETTERS.get(stream, storage.OTHER_STREAM)
        self.is_due = stream == storage.SCHEDULES
        self.is_foreign = self.letter == storage.OTHER_STREAM  # the user's own
        self.is_object = stream.startswith(subjects.OBJECT_STREAM_PREFIX)
        self.asked = 0
        self.enough = 0  # of what is here and asked for: with more than that, nothing more is asked for
        self.pending = 0  # that it has beside these
        self.held: dict[int, Delivery] = {}  # by sequence: received and not settled
        self.bytes = 0  # of their payloads
        self.heard = 0.0  # when it last said anything
        self.early: dict[int, Delivery] | None = None  # while it is not known what came before them
        self.parked = 0  # of those: they wait for others of their key, not for a slot
        self.gone = False  # no version that is current has this trigger, or the function is another router's
        self.owed = 0  # while it is not: what came before, and will be handed out before anything new

    def missing(self, window: int) -> int:
        """How many to ask for now."""
        if self.early is not None:
            return max(0, self.owed - self.asked)
        self.enough = window - max(1, window // 4)
        missing = max(0, min(window - self._under_way, max(LARGEST_WINDOW, window) - self.asked - len(self.held)))
        return missing if self.wants_more or (missing > 0 and not self.asked) else 0

    def received(self) -> None:
        self.asked -= 1
        self.owed = max(0, self.owed - 1)

    def clear(self) -> None:
        """Another router's now."""
        self.held.clear()
        self.bytes = 0
        self.early = None

    @property
    def wants_more(self) -> bool:
        return self._under_way <= self.enough

    @property
    def _under_way(self) -> int:
        return self.asked + len(self.held) - self.parked

    def __repr__(self) -> str:
        return f"<Source {self.key.decode()}: {len(self.held)} held, {self.asked} asked for, {self.pending} pending>"


def sources(spec: VersionSpec) -> list[Source]:
    """All that feed a version."""
    calls = storage.call_consumer(spec.name)
    found = [Source(spec.name, storage.ASYNC, calls), Source(spec.name, storage.SCHEDULES, calls)]
    for trigger in spec.triggers:
        if stream := trigger.durable_stream:
            found.append(Source(spec.name, stream, storage.event_consumer(spec.name, trigger.number)))
    return found


def window(slots: int, service_s: float | None, batch: int = 1) -> int:
    """How many deliveries of one source may be here or on their way. ``slots``: those ready and those coming.
    ``batch``: deliveries in a call; less than that many, and it would never be full."""
    ahead = 1 if service_s is None else min(AHEAD, ceil(AHEAD_S / service_s))
    calls = max(1, slots * (1 + ahead))
    return min(max(LARGEST_WINDOW, batch), max(SMALLEST_WINDOW, calls * batch))
