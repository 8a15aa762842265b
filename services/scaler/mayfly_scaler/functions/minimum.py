"""How many instances are to be ready whatever the calls ask for, and why.

The largest of: what the calls of the last seconds kept busy and a little more, where a cold start is slow enough to be
noticed; what is provisioned at this time of the week; what the figures that the function scales on propose. Each rises
at once and falls slowly (see `peak`).
"""

from collections.abc import Iterable
from math import ceil, exp, sqrt
from typing import NamedTuple

AVERAGE_S = 6.0
HEADROOM = 1.0  # square roots of what is busy
SLOW_COLD_S = 0.05
BUSY_FROM = 0.5  # slots
_ROUNDING = 1e-9


class Proposal(NamedTuple):
    instances: int
    why: str


NOTHING = Proposal(0, "")


def average(before: float, busy: float, elapsed_s: float) -> float:
    """Slots in use, over the last seconds. Never the queue: it would order what waiting calls have ordered already."""
    return before + (1 - exp(-elapsed_s / AVERAGE_S)) * (busy - before)


def floor(busy: float, concurrency: int, cold_s: float) -> int:
    """``busy``: slots in use on average."""
    if cold_s <= SLOW_COLD_S or busy <= BUSY_FROM:
        return 0
    return ceil((busy + HEADROOM * sqrt(busy)) / concurrency - _ROUNDING)


def largest(proposals: Iterable[Proposal], max_instances: int) -> Proposal:
    """The one that counts; never more than the function may have."""
    best = max(proposals, default=NOTHING, key=lambda proposal: proposal.instances)
    if best.instances <= 0:
        return NOTHING
    if best.instances <= max_instances:
        return best
    return Proposal(max_instances, f"{best.why}, of which it may have {max_instances}")
