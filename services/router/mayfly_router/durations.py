"""How long the last calls of a version took, from arrival to the end.

Told on the warm path, and asked once a second for thousands of functions: sorted again when an eighth of what is
remembered is new, which moves a quantile by no more than that.
"""

from collections import deque
from collections.abc import Collection
from itertools import chain
from typing import NamedTuple

REMEMBERED = 256  # calls
NEWS = 8  # one in so many


class Quantiles(NamedTuple):
    p50_s: float
    p99_s: float


NOTHING = Quantiles(0.0, 0.0)


class Durations:
    __slots__ = ("_known", "_last", "_new")

    def __init__(self) -> None:
        self._last: deque[float] | None = None  # most versions of most functions are never called
        self._known = NOTHING
        self._new = 0  # since that was known

    def add(self, seconds: float) -> None:
        if self._last is None:
            self._last = deque(maxlen=REMEMBERED)
        self._last.append(seconds)
        self._new += 1

    @property
    def quantiles(self) -> Quantiles:
        if self._last is not None and self._new * NEWS >= len(self._last):
            self._known = _quantiles(self._last)
            self._new = 0
        return self._known

    def __bool__(self) -> bool:
        return self._last is not None

    @staticmethod
    def together(versions: Collection["Durations"]) -> Quantiles:
        """Of all versions of a function."""
        if not versions:
            return NOTHING
        if len(versions) == 1:
            return next(iter(versions)).quantiles
        return _quantiles([*chain.from_iterable(durations._last or () for durations in versions)])


def _quantiles(seconds: Collection[float]) -> Quantiles:
    """For each the smallest that so many are not above; 0 when there are none."""
    ordered = sorted(seconds)
    return Quantiles(*(ordered[int(q * len(ordered))] for q in (0.5, 0.99))) if ordered else NOTHING
