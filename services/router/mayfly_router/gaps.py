"""The pauses of one function: how long instances were without calls until they were wanted again.

A level is a number of instances that have calls in them. Level 1 is the function: from the end of the call that left it
idle to the next one. Level k is its k-th instance: from the moment since which fewer than k were in use until k are
again. What exists meanwhile does not matter, so what is learnt here does not depend on what was reclaimed: a pause ends
when a call comes, even if that has to wait for a cold start.

This is on the warm path: a pause below a second is a counter, and a pause whose beginning is not known (a new owner, a
level that never was) is not a number, which compares with nothing.
"""

from collections import Counter

from mayfly_proto import gaps

_SHORT_S = gaps.EDGES_S[1]  # the end of the first bin
_UNKNOWN = float("nan")


class Gaps:
    __slots__ = ("_further", "_idle", "_left_at", "_short", "_short_further", "level")

    def __init__(self) -> None:
        self.level = 0  # instances that have calls in them
        self._left_at = [_UNKNOWN, _UNKNOWN]  # when each level was left last; the first is of no level
        self._short = 0
        self._short_further = 0
        self._idle: Counter[int] = Counter()  # bin → pauses of level 1
        self._further: Counter[int] = Counter()  # of the others

    def rise(self, now: float) -> None:
        """One instance more has calls in it."""
        level = self.level = self.level + 1
        try:
            gap_s = now - self._left_at[level]
        except IndexError:
            self._left_at.append(_UNKNOWN)
            return
        if gap_s < _SHORT_S:
            if level == 1:
                self._short += 1
            else:
                self._short_further += 1
        elif gap_s >= _SHORT_S:
            self._note(level, gap_s)

    def fall(self, now: float) -> None:
        """One has none any longer."""
        self._left_at[self.level] = now
        self.level -= 1

    def want(self, now: float) -> None:
        """A call has to wait: it would have used one instance more, if there were one. The pause is over now, and not
        when the call has its slot."""
        level = self.level + 1
        if level < len(self._left_at):
            gap_s = now - self._left_at[level]
            self._left_at[level] = _UNKNOWN
            if gap_s >= 0:
                self._note(level, gap_s)

    @property
    def idle_since(self) -> float | None:
        """When the last call ended; None: there are calls, or it is not known."""
        left_at = self._left_at[1]
        return None if self.level or left_at != left_at else left_at

    def report(self) -> tuple[dict[str, int], dict[str, int]]:
        """Pauses since the last report, by the keys of their bins: of the function, and of its further instances."""
        idle, further = self._idle, self._further
        if not (self._short or self._short_further or idle or further):
            return {}, {}
        idle[0] += self._short
        further[0] += self._short_further
        self._idle, self._further = Counter(), Counter()
        self._short = self._short_further = 0
        return _named(idle), _named(further)

    def _note(self, level: int, gap_s: float) -> None:
        (self._idle if level == 1 else self._further)[gaps.bin_of(gap_s)] += 1

    def __repr__(self) -> str:
        return f"<Gaps level {self.level}, idle since {self.idle_since}>"


def _named(counts: Counter[int]) -> dict[str, int]:
    return {gaps.key(index): count for index, count in counts.items() if count}
