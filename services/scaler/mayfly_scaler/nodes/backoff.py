"""When a provider that failed is tried again."""

FIRST_S = 5.0
LAST_S = 300.0


class Backoff:
    """Doubles with each failure in a row. What fails while it waits is the same failure."""

    def __init__(self) -> None:
        self.failures = 0  # in a row
        self.until = float("-inf")

    def fail(self, now: float) -> float | None:
        """How long to wait from now on, in seconds; None when it waits already."""
        if self.waits(now):
            return None
        wait_s = min(LAST_S, FIRST_S * 2.0 ** min(self.failures, 10))
        self.failures += 1
        self.until = now + wait_s
        return wait_s

    def succeed(self, quiet_until: float = float("-inf")) -> None:
        self.failures = 0
        self.until = quiet_until

    def waits(self, now: float) -> bool:
        return now < self.until

    def __repr__(self) -> str:
        return f"<Backoff: {self.failures} failures, until {self.until}>"


class Health:
    """Of a provider, as far as new nodes depend on it. Each thing that it does may fail by itself: a list that succeeds
    says nothing of an image that is missing, and a container that starts nothing of a worker that never joins."""

    def __init__(self) -> None:
        self.listing = Backoff()
        self.adding = Backoff()
        self.booting = Backoff()

    def fails(self, now: float) -> bool:
        """It gets no new nodes to make, and none that serve are given up."""
        return any(backoff.waits(now) for backoff in (self.listing, self.adding, self.booting))
