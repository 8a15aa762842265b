"""Bins of pauses: how long something was idle before it was needed again.

Logarithmic from one second to four hours, and finer around the periods at which timers call: a pause of exactly a
minute, five or an hour falls into a bin that is narrow enough to be waited for.
"""

from bisect import bisect_right

EDGES_S = (  # lower edges; the last bin has no end
    *(0, 1, 2, 3, 4, 5, 7, 10, 13, 16, 20, 25, 30, 36, 43, 50, 57, 62, 66, 72, 80, 90, 100, 110, 118, 123, 130, 145),
    *(160, 176, 182, 190, 210, 236, 243, 255, 280, 297, 304, 320, 350, 385, 420, 470, 530, 590, 605, 630, 700, 800),
    *(890, 905, 940, 1050, 1195, 1206, 1300, 1500, 1790, 1810, 2000, 2400, 3000, 3580, 3620, 4200, 5400, 7190, 7220),
    *(9000, 10800, 14400),
)


def bin_of(gap_s: float) -> int:
    """The index of a pause's bin."""
    return max(0, bisect_right(EDGES_S, gap_s) - 1)


def key(index: int) -> str:
    """A bin as reports name it: its lower edge in seconds."""
    return str(EDGES_S[index])


def index(key: str) -> int:
    """Raises `ValueError` for what is no edge."""
    return EDGES_S.index(int(key))
