"""What is known of one function: its pauses, what a cold start of it takes, and what an instance of it costs."""

from collections.abc import Mapping
from typing import Self

from mayfly_proto import gaps
from mayfly_proto.records import FunctionLoad, Learned
from mayfly_scaler.functions.pauses import BINS, Pauses
from mayfly_scaler.functions.windows import KNOWN, Price, Windows, windows

UNKNOWN_COLD_S = 0.25
UNKNOWN_MEMORY_MB = 20.0
EAGER_UNTIL = 64  # pauses: until then each changes the windows
THEN_EVERY = 32
DEARER = 0.2  # part by which a price changes before windows are worked out anew

_BINS = {gaps.key(index): index for index in range(BINS)}


class Learning:
    __slots__ = ("_at_count", "_at_price", "cold_s", "further", "idle", "private_mb", "unsaved", "windows")

    def __init__(self) -> None:
        self.idle = Pauses()
        self.further = Pauses()
        self.cold_s = 0.0  # 0: never measured
        self.private_mb = 0.0
        self.windows = Windows()  # as last worked out
        self.unsaved = False
        self._at_count = 0  # of pauses, when they were
        self._at_price = self.price

    @classmethod
    def restored(cls, kept: Learned) -> Self:
        """Raises `ValueError` for bins that are none."""
        learning = cls()
        learning.idle = Pauses.restored(kept.idle, kept.idle_count)
        learning.further = Pauses.restored(kept.further, kept.further_count)
        learning.cold_s, learning.private_mb = kept.cold_s, kept.private_mb
        return learning

    def kept(self) -> Learned:
        return Learned(
            idle=self.idle.kept(),
            idle_count=self.idle.count,
            further=self.further.kept(),
            further_count=self.further.count,
            cold_s=round(self.cold_s, 4),
            private_mb=round(self.private_mb, 1),
        )

    @property
    def price(self) -> Price:
        return Price(self.cold_s or UNKNOWN_COLD_S, (self.private_mb or UNKNOWN_MEMORY_MB) / 1024)

    @property
    def due(self) -> bool:
        """Whether enough is new for the windows to be worked out again."""
        count = self.idle.count + self.further.count
        if count == 0:
            return False
        fresh = count - self._at_count
        if fresh >= THEN_EVERY or (fresh > 0 and count <= EAGER_UNTIL):
            return True
        price, known = self.price, self._at_price
        return max(abs(price.cold_s / known.cold_s - 1), abs(price.memory_gb / known.memory_gb - 1)) > DEARER

    def heard(self, load: FunctionLoad) -> None:
        """A report of the function's owner. Bins that only another version of the router knows are left out."""
        if load.cold_ms > 0:
            self.cold_s = load.cold_ms / 1000
        if load.idle_gaps:
            self.idle.add(_by_bin(load.idle_gaps))
            self.unsaved = True
        if load.further_gaps:
            self.further.add(_by_bin(load.further_gaps))
            self.unsaved = True

    def work_out(self, *, pre_warm: bool) -> Windows:
        """What was known before, as from a target that outlived what was learnt, stays until enough is known again."""
        self._at_count = self.idle.count + self.further.count
        self._at_price = self.price
        before, self.windows = self.windows, windows(self.idle, self.further, self._at_price, pre_warm=pre_warm)
        if self.further.count < KNOWN:
            self.windows = self.windows._replace(further_keep_alive_s=before.further_keep_alive_s)
        if self.idle.count < KNOWN:
            self.windows = before._replace(further_keep_alive_s=self.windows.further_keep_alive_s)
        return self.windows

    def __repr__(self) -> str:
        return f"<Learning {self.idle.count}+{self.further.count} pauses, {self.price}, {self.windows}>"


def _by_bin(reported: Mapping[str, int]) -> dict[int, int]:
    return {_BINS[key]: count for key, count in reported.items() if key in _BINS}
