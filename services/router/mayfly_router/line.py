"""Calls that wait: those for whose answer somebody waits before durable ones, each in the order of their arrival."""

from collections import deque
from collections.abc import Iterable, Iterator

from mayfly_router.call import Call


class Line:
    __slots__ = ("_durable", "_urgent")

    def __init__(self, calls: Iterable[Call] = ()) -> None:
        self._urgent: deque[Call] = deque()
        self._durable: deque[Call] = deque()
        for call in calls:
            self.append(call)

    def append(self, call: Call) -> None:
        (self._durable if call.deliveries else self._urgent).append(call)

    def appendleft(self, call: Call) -> None:
        (self._durable if call.deliveries else self._urgent).appendleft(call)

    def popleft(self) -> Call:
        return (self._urgent or self._durable).popleft()

    @property
    def urgent(self) -> int:
        return len(self._urgent)

    @property
    def urgent_since(self) -> float:
        """When the one of those that waits longest arrived."""
        return self._urgent[0].arrived

    @property
    def since(self) -> float:
        """When the one that waits longest arrived."""
        return min(line[0].arrived for line in (self._urgent, self._durable) if line)

    def __len__(self) -> int:
        return len(self._urgent) + len(self._durable)

    def __iter__(self) -> Iterator[Call]:
        yield from self._urgent
        yield from self._durable
