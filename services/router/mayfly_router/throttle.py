"""How long a call that finds no free slot would wait, by the pace of those before it.

A caller who would wait for longer than it is worth hears so at once, and when to come back. Nothing is predicted before
a call of the version has ended, and a function that may still grow is taken for as large as it may become: a call is
refused only when it is the function's own limit, or its share, that makes it wait.
"""

from math import ceil

LONGEST_RETRY_S = 60


def predicted_wait_s(queued: int, service_s: float, slots: int, busy: int) -> float:
    """``queued`` calls go first: some into the slots that are not ``busy``, at once or as soon as they are there, the
    others one after the other, each for ``service_s``."""
    return max(0, queued - (slots - busy)) * service_s / max(1, slots)


def retry_after_s(wait_s: float) -> int:
    """What a caller who is refused is told."""
    return min(LONGEST_RETRY_S, max(1, ceil(wait_s)))
