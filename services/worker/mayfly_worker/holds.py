"""What the owners of functions want kept on this node: so many ready instances, and for how long idle ones.

Their word holds for five minutes; an owner that lives says it again every minute. Without it a version's own limit
counts.
"""

from typing import NamedTuple

HOLD_S = 300.0


class Hold(NamedTuple):
    instances: int = 0  # ready ones that stay
    keep_alive_s: float | None = None  # of the last one; None: as the version says
    further_keep_alive_s: float | None = None  # of all others
    until: float = 0.0


NOTHING = Hold()


class Holds:
    def __init__(self) -> None:
        self._holds: dict[tuple[str, int], Hold] = {}  # that which ends first comes first

    def put(self, function: str, version: int, hold: Hold, now: float) -> None:
        """It replaces what was said before."""
        key = (function, version)
        self._holds.pop(key, None)
        if hold != NOTHING:
            self._holds[key] = hold._replace(until=now + HOLD_S)
        while self._holds and next(iter(self._holds.values())).until <= now:
            del self._holds[next(iter(self._holds))]

    def of(self, function: str, version: int, now: float) -> Hold:
        hold = self._holds.get((function, version), NOTHING)
        return hold if now < hold.until else NOTHING
