"""The largest value of the last seconds: what stays for a while when its cause has gone."""

from collections import deque


class Peak:
    """Values and moments that fall in both; the first is the peak."""

    __slots__ = ("_falling", "_window_s")

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._falling: deque[tuple[float, float]] = deque()  # moment, value

    def add(self, value: float, now: float) -> float:
        """Returns the peak, of which ``value`` is part."""
        falling = self._falling
        while falling and falling[-1][1] <= value:
            falling.pop()
        falling.append((now, value))
        return self.value(now) if len(falling) > 1 else value

    def value(self, now: float) -> float:
        """0 when nothing was added within the window."""
        falling = self._falling
        while falling and falling[0][0] < now - self._window_s:
            falling.popleft()
        return falling[0][1] if falling else 0.0
