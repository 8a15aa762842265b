"""Numbers that anybody publishes to ``metric.<name>``, for functions to scale on."""

from collections.abc import Callable, Collection
from math import isfinite
from time import monotonic

from mayfly_chassis.bus import Bus
from mayfly_proto import subjects

VALID_S = 60.0
LONGEST = 64  # bytes that say one number

_PREFIX = len(subjects.metric(""))


class Metrics:
    """Keeps only those that are ``wanted``: anybody may publish, under any name."""

    def __init__(self, bus: Bus, clock: Callable[[], float] = monotonic) -> None:
        self.wanted: Collection[str] = ()
        self._bus = bus
        self._clock = clock
        self._values: dict[str, tuple[float, float]] = {}  # name → value, when it came

    async def start(self) -> None:
        await self._bus.subscribe(subjects.METRICS, self._received)

    def value(self, name: str) -> float | None:
        """None when nobody has said it for `VALID_S`."""
        value, at = self._values.get(name, (0.0, float("-inf")))
        return value if self._clock() - at <= VALID_S else None

    def _received(self, subject: bytes, _reply: bytes, _raw: bytes | None, payload: bytes) -> None:
        name = subject[_PREFIX:].decode("utf-8", "replace")
        if name not in self.wanted or len(payload) > LONGEST:
            return
        try:
            value = float(payload)
        except ValueError:
            return
        if isfinite(value):
            self._values[name] = (value, self._clock())
