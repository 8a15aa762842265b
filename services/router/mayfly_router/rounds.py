"""What goes by the second: in each, every function that is awake is looked at once.

A few in each tick, for with thousands awake calls would have to wait for all of them; when there are few, all at the
end, so that what is told of them is new.
"""

from collections.abc import Callable

from mayfly_router.function import Function
from mayfly_router.state import State

PERIOD_S = 1.0
FEW = 100  # looked at in half a millisecond


class Rounds:
    """``look(function, now)`` is called for each that is awake, and then ``end(now)``."""

    def __init__(self, state: State, look: Callable[[Function, float], None], end: Callable[[float], None]) -> None:
        self._state = state
        self._look = look
        self._end = end
        self._begin(state.clock())

    def tick(self, now: float) -> None:
        passed = (now - self._begun) / PERIOD_S
        if passed < 1:
            while self._left and len(self._left) > self._count * (1 - passed):
                self._look_at(self._left.pop(), now)
            return
        for function in list(self._state.awake):
            if function not in self._seen:
                self._look_at(function, now)
        self._end(now)
        self._begin(now)

    def _begin(self, now: float) -> None:
        awake = self._state.awake
        self._begun = now
        self._left = list(awake) if len(awake) > FEW else []
        self._count = len(self._left)
        self._seen: set[Function] = set()

    def _look_at(self, function: Function, now: float) -> None:
        self._seen.add(function)
        if function in self._state.awake:
            self._look(function, now)

    def __repr__(self) -> str:
        return f"<Rounds: {len(self._seen)} looked at, {len(self._left)} left>"
