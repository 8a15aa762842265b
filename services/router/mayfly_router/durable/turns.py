"""Deliveries that wait here before they run: for a full batch, for the events of their key, or for the time of another
attempt. Each waits in one of these places; what is done with it when its turn comes is for others to do.
"""

from collections.abc import Collection, Iterator
from itertools import chain

from mayfly_proto.records import VersionSpec
from mayfly_router.durable.batching import Gathering
from mayfly_router.durable.delivery import Delivery
from mayfly_router.durable.ordering import Lanes


class Turns:
    def __init__(self, bytes_limit: int) -> None:
        self._limit = bytes_limit  # of a batch
        self._lanes: dict[str, Lanes] = {}
        self._gatherings: dict[str, Gathering] = {}
        self._again: list[tuple[float, Delivery]] = []  # in the order of a key: when it is to run again

    def enter(self, spec: VersionSpec, delivery: Delivery, now: float) -> list[Delivery]:
        """What is to run now: this one, the batch that it completes, or nothing."""
        if spec.batch is not None:
            gathering = self._gatherings.get(spec.name)
            if gathering is None:
                gathering = self._gatherings[spec.name] = Gathering(spec.batch, self._limit)
            ready = gathering.add(delivery, now)
            if not gathering:
                del self._gatherings[spec.name]  # else it would be looked at for ever
            return ready
        if not spec.ordered or self._lane(spec).enter(delivery):
            return [delivery]
        delivery.park()
        return []

    def recall(self, spec: VersionSpec, delivery: Delivery) -> None:
        """One that runs by another router's order: those of its key wait for it."""
        if spec.ordered:
            self._lane(spec).recall(delivery)

    def leave(self, delivery: Delivery) -> Delivery | None:
        """It is settled for good. The next one of its key, if any waits."""
        lanes = self._lanes.get(delivery.source.function)
        while lanes is not None and (following := lanes.leave(delivery)) is not None:
            if following.waits:
                return following
            delivery = following  # it was given back meanwhile
        return None

    def run_at(self, at: float, delivery: Delivery) -> None:
        """It runs again from here. Until then it takes no place in the window: other keys are not to wait for it."""
        delivery.taken = False
        delivery.park()
        self._again.append((at, delivery))

    def due_batches(self, now: float) -> list[tuple[str, list[Delivery]]]:
        """Those whose window is over, by function."""
        due = ((name, gathering.due(now)) for name, gathering in self._gatherings.items())
        batches = [(name, batch) for name, batch in due if batch]
        for name, _ in batches:
            del self._gatherings[name]
        return batches

    def due(self, now: float) -> list[Delivery]:
        """Those whose time has come to run again."""
        due = [delivery for at, delivery in self._again if at <= now]
        self._again = [entry for entry in self._again if entry[0] > now]
        return due

    def of(self, function: str) -> Iterator[Delivery]:
        """All that wait here."""
        lanes = self._lanes.get(function)
        again = (delivery for _, delivery in self._again if delivery.source.function == function)
        return chain(self._gatherings.get(function, ()), lanes.waiting() if lanes else (), again)

    def remove(self, delivery: Delivery) -> None:
        """One of them is not to have its turn."""
        function = delivery.source.function
        if delivery in self._gatherings.get(function, ()):
            self._gatherings[function].remove(delivery)
        elif (lanes := self._lanes.get(function)) and delivery in lanes.waiting():
            lanes.remove(delivery)
        else:
            self._again = [entry for entry in self._again if entry[1] is not delivery]

    def forget(self, functions: Collection[str]) -> None:
        self._again = [entry for entry in self._again if entry[1].source.function not in functions]
        for function in functions:
            self._lanes.pop(function, None)
            self._gatherings.pop(function, None)

    def _lane(self, spec: VersionSpec) -> Lanes:
        lanes = self._lanes.get(spec.name)
        if lanes is None:
            lanes = self._lanes[spec.name] = Lanes(spec.ordered)
        return lanes
