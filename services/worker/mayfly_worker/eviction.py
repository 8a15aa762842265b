"""Which idle instances go first when memory is short: greedy-dual with sizes and a capped frequency.

    value = inflation when it fell idle + min(its calls, 50) * seconds that a start takes / memory

The one of least value goes, and its value becomes the inflation (Cao and Irani, GreedyDual-Size, 1997): what has not
been used for long is overtaken by all that was used since, however often it was used before. FaasCache counts the calls
of all instances of a function together; then the thirty that one burst made would never leave. So each counts its own,
and not above a cap.

Memory is what it was promised: that is what placement counts by, and known from the start.
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mayfly_worker.group import Instance

MOST_CALLS = 50
FULL = 0.90  # of the memory there is: idle instances go
RELIEVED = 0.85  # until so much is used


class Inflation:
    """The value of the last one that went: it only grows."""

    value = 0.0

    def rise(self, value: float) -> None:
        self.value = max(self.value, value)


def value(instance: "Instance") -> float:
    group = instance.group
    return instance.inflation + min(instance.calls, MOST_CALLS) * group.cold_s / group.memory_mb


def choose(
    candidates: Iterable["Instance"], wanted_mb: float, frees_mb: Callable[["Instance"], float]
) -> list["Instance"]:
    """Those of least value that together free so much, of the same value the longest idle first; all of them when that
    is not enough."""
    victims: list[Instance] = []
    for instance in sorted(candidates, key=lambda instance: (value(instance), instance.idle_since)):
        if wanted_mb <= 0:
            break
        victims.append(instance)
        wanted_mb -= frees_mb(instance)
    return victims


class Pressure:
    """Whether the memory that the node really has runs out, promised or not."""

    def __init__(self) -> None:
        self.high = False

    def excess_mb(self, used_mb: float, total_mb: float) -> float:
        """How much has to be freed now: nothing until `FULL` is passed, and from then on what is above `RELIEVED`."""
        self.high = used_mb > total_mb * (RELIEVED if self.high else FULL)
        return used_mb - total_mb * RELIEVED if self.high else 0.0
