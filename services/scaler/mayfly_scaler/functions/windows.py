"""How long an idle instance is worth its memory, and when one is worth starting before it is needed.

An idle instance costs memory for as long as it waits, and saves a cold start when a call comes. `GBS_PER_COLD_SECOND`
says what a second of cold start is worth in gigabyte-seconds. Given how likely a pause is to end in each bin of time,
each bin has a gain: what it saves there less what waiting through it costs.

* **Linger**: the bins from the beginning that together gain most. It grows with the price of a cold start and falls
  with memory.
* **Pre-warm**: the run of bins after it that gains most, if calls are likely enough to come then: an instance is
  started just before the run and kept through it. That is what makes timers warm: nobody waits through the whole pause.

Rejected: a histogram's percentiles (Serverless in the Wild), which refuse to price memory and had 2.7 times the cold
starts of a fixed 600 s in total; greedy-dual eviction, which keeps a burst's surplus for ever.
"""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise
from math import inf
from typing import NamedTuple

from mayfly_proto import gaps
from mayfly_scaler.functions.pauses import Pauses

GBS_PER_COLD_SECOND = 100.0
SHORTEST_S = 5.0
LONGEST_S = 600.0
KNOWN = 4  # pauses, below which nothing is said
FORESEEABLE = 6  # pauses, below which nothing is started ahead
FORESEEN_FROM_S = 20.0
LIKELY = 0.2  # that the pause ends in the run
WORTH = 0.25  # of what its cold starts cost, that the run has to gain
LEAD_S, LEAD = 1.0, 0.01  # at least so long, and such a part of the pause, ahead and after

# A busy cluster's windows are worked out hundreds of times a second: what is the same for all is known beforehand.
_EDGES = gaps.EDGES_S
_LENGTHS = [after - before for before, after in pairwise(_EDGES)]  # the last bin has no end, so nobody waits for it
_ENDS = [float(edge) for edge in _EDGES[1:] if edge <= LONGEST_S]


class Price(NamedTuple):
    cold_s: float  # that a call waits when no instance is there
    memory_gb: float  # that an instance adds to its node


class Windows(NamedTuple):
    """None: as the function's version says."""

    keep_alive_s: float | None = None
    further_keep_alive_s: float | None = None
    pre_warm_at_s: float | None = None
    pre_warm_for_s: float = 0.0


class _Run(NamedTuple):
    first: int
    last: int
    gain: float


def windows(idle: Pauses, further: Pauses, price: Price, *, pre_warm: bool = True) -> Windows:
    """``idle``: of the whole function; ``further``: of its second, third ... instance."""
    further_s = linger_s(gains(further.likely(), price)) if further.count >= KNOWN else None
    if idle.count < KNOWN:
        return Windows(further_keep_alive_s=further_s)
    likely = idle.likely()
    gain = gains(likely, price)
    keep_s = linger_s(gain)
    run = _best_run(gain, max(keep_s, FORESEEN_FROM_S)) if pre_warm and idle.count >= FORESEEABLE else None
    if run is None or not _worthwhile(run, likely, price):
        return Windows(keep_s, further_s)
    begins, ends = float(_EDGES[run.first]), float(_EDGES[run.last + 1])
    lead_s = max(LEAD_S, LEAD * begins)
    if begins - lead_s <= keep_s:  # not worth stopping in between
        return Windows(min(max(keep_s, ends), LONGEST_S), further_s)
    return Windows(keep_s, further_s, begins - lead_s, ends - begins + 2 * lead_s)


def gains(likely: Sequence[float], price: Price) -> list[float]:
    """Of each bin but the last, in gigabyte-seconds: what being warm there saves, less what it costs."""
    saved, memory_gb = GBS_PER_COLD_SECOND * price.cold_s, price.memory_gb
    left = 1.0  # how likely the pause is to last through this bin
    net = []
    for length, ends_here in zip(_LENGTHS, likely, strict=False):
        left -= ends_here
        waited = length * ((left if left > 0.0 else 0.0) + ends_here / 2)
        net.append(saved * ends_here - memory_gb * waited)
    return net


def linger_s(net: Sequence[float]) -> float:
    """The end, within bounds, of the prefix that gains most."""
    total, best, end_s = 0.0, -inf, SHORTEST_S
    for gain, after_s in zip(net, _ENDS, strict=False):
        total += gain
        if total > best and after_s >= SHORTEST_S:
            best, end_s = total, after_s
    return end_s


def _best_run(net: Sequence[float], from_s: float) -> _Run | None:
    """The contiguous bins that together gain most (Kadane)."""
    best: _Run | None = None
    total, first = 0.0, 0
    for index in range(bisect_left(_EDGES, from_s), len(net)):
        gain = net[index]
        if total <= 0:
            total, first = 0.0, index
        total += gain
        if total > (best.gain if best else 0.0):
            best = _Run(first, index, total)
    return best


def _worthwhile(run: _Run, likely: Sequence[float], price: Price) -> bool:
    mass = sum(likely[run.first : run.last + 1])
    return mass >= LIKELY and run.gain >= WORTH * GBS_PER_COLD_SECOND * price.cold_s * mass
