"""How long one function's pauses have been, as decayed weights of the bins of `mayfly_proto.gaps`.

A pause counts half after `HALF_LIFE` newer ones. Weights grow instead of fading: what is new weighs more by a unit that
doubles each half-life, so a pause costs one addition, however many bins there are.
"""

from collections.abc import Mapping
from itertools import pairwise
from math import log
from typing import Self

from mayfly_proto import gaps

HALF_LIFE = 200
PRIOR_WEIGHT = 4.0  # pauses' worth of belief that all orders of magnitude are equally likely
_FADE = 0.5 ** (1 / HALF_LIFE)
_LARGEST = 1e100
_FORGOTTEN = 1e-3  # of a pause's weight: not worth keeping
BINS = len(gaps.EDGES_S)


def _prior() -> list[float]:
    """Log-uniform from one second on."""
    ends = [log(max(edge, 1.0)) for edge in gaps.EDGES_S]
    whole = ends[-1] + 1
    return [(after - before) / whole for before, after in pairwise(ends)] + [1 / whole]


def _step(total: int) -> tuple[float, float]:
    """What a unit fades to by so many pauses, and the mean of what they weigh, in units of the last."""
    faded = max(_FADE**total, 1 / _LARGEST)
    return faded, (1 - faded) / (total * (1 - _FADE))


PRIOR = _prior()
_STEPS = [(1.0, 1.0), *map(_step, range(1, 100))]  # most reports are of a few
_BELIEF = [PRIOR_WEIGHT * part for part in PRIOR]


class Pauses:
    """``count``: how many there have ever been."""

    __slots__ = ("_unit", "_weights", "count")

    def __init__(self) -> None:
        self.count = 0
        self._unit = 1.0  # what the newest pause weighs
        self._weights = [0.0] * BINS

    @classmethod
    def restored(cls, weights: Mapping[str, float], count: int) -> Self:
        """From `kept`. Raises `ValueError` for bins that are none."""
        pauses = cls()
        pauses.count = count
        for key, weight in weights.items():
            pauses._weights[gaps.index(key)] = weight
        return pauses

    def add(self, counts: Mapping[int, int]) -> None:
        """Pauses by bin. Which of them came first is not known and does not matter: each gets the mean weight."""
        total = sum(counts.values())
        if total <= 0:
            return
        faded, each = _STEPS[total] if total < len(_STEPS) else _step(total)
        self._unit /= faded
        each *= self._unit
        weights = self._weights
        for index, count in counts.items():
            weights[index] += each * count
        self.count += total
        if self._unit > _LARGEST:
            self._weights = [weight / self._unit for weight in self._weights]
            self._unit = 1.0

    def kept(self) -> dict[str, float]:
        """Weights of the bins that have any, with the newest pause as 1."""
        scaled = ((index, weight / self._unit) for index, weight in enumerate(self._weights))
        return {gaps.key(index): round(weight, 4) for index, weight in scaled if weight > _FORGOTTEN}

    def likely(self) -> list[float]:
        """Of each bin, how likely the next pause is to end there; they sum to 1."""
        unit = self._unit
        weights = [belief + weight / unit for belief, weight in zip(_BELIEF, self._weights, strict=True)]
        whole = sum(weights)
        return [weight / whole for weight in weights]

    def __repr__(self) -> str:
        return f"<Pauses {self.count}: {self.kept()}>"
