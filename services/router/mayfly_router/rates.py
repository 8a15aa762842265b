"""Limits on calls per second: of a function, and of each of its callers.

Both are token buckets that hold one second's worth, at least one call, kept as a single time (the generic cell rate
algorithm): when the bucket will be full again. They are exact, for all calls of a function come to its one owner; a new
owner begins with full ones.

A caller is who the gateway says, else whose inbox is to have the answer: a connection. That keeps callers out of each
other's way; it is no protection against one that gives itself many names, which the function's own limit is.
"""

from math import inf

from mayfly_proto import headers, subjects
from mayfly_proto.records import VersionSpec

MOST_CALLERS = 10_000  # that a function remembers at one time
LONGEST_NAME = 100  # bytes

_CALLER = headers.CALLER.encode()


class Rate:
    """One limit. ``full_at`` is all that there is to a bucket; a time that is over means a full one."""

    def __init__(self, per_s: float) -> None:
        self.per_s = per_s
        self._interval_s = 1 / per_s
        self._reserve_s = (max(1.0, per_s) - 1) * self._interval_s

    def wait_s(self, full_at: float, now: float) -> float:
        """Until the bucket has a token; 0: it has one."""
        wait_s = full_at - now - self._reserve_s
        return wait_s if wait_s > self._interval_s * 1e-6 else 0.0  # not worth a rounding error

    def taken(self, full_at: float, now: float) -> float:
        """When it will be full after a token more is taken."""
        return max(full_at, now) + self._interval_s


class Rates:
    """The limits of one function."""

    def __init__(self, per_s: float, caller_per_s: float) -> None:
        self.per_s, self.caller_per_s = per_s, caller_per_s
        self._own = Rate(per_s) if per_s else None
        self._own_full_at = -inf
        self._each = Rate(caller_per_s) if caller_per_s else None
        self._callers: dict[bytes, float] = {}  # the one that called last at the end

    def take(self, caller: bytes, now: float) -> float:
        """0: the call is within the limits, and counts. Else it does not, and in so many seconds there is room."""
        wait_s = 0.0
        full_at = -inf
        if self._own is not None:
            wait_s = self._own.wait_s(self._own_full_at, now)
        if self._each is not None:
            self.forget(now)
            full_at = self._callers.get(caller, -inf)
            wait_s = max(wait_s, self._each.wait_s(full_at, now))
        if wait_s:
            return wait_s
        if self._own is not None:
            self._own_full_at = self._own.taken(self._own_full_at, now)
        if self._each is not None:
            self._callers.pop(caller, None)
            if len(self._callers) >= MOST_CALLERS:
                del self._callers[next(iter(self._callers))]
            self._callers[caller] = self._each.taken(full_at, now)
        return 0.0

    def forget(self, now: float) -> None:
        """Forget callers whose buckets are full. They are kept in the order of their last call, so one that is behind
        another is full, and forgotten, a bucket's time later at most."""
        while self._callers:
            caller, full_at = next(iter(self._callers.items()))
            if full_at > now:
                return
            del self._callers[caller]

    @property
    def callers(self) -> int:
        """How many are remembered."""
        return len(self._callers)

    def __repr__(self) -> str:
        return f"<Rates {self.per_s:g}/s, {self.caller_per_s:g}/s of each of {self.callers} callers>"


def renewed(rates: Rates | None, spec: VersionSpec) -> Rates | None:
    """The limits that this version asks for: those there are, where it changes nothing. None: there are none."""
    wanted = (spec.rate_limit, spec.caller_rate_limit)
    if rates is not None and wanted == (rates.per_s, rates.caller_per_s):
        return rates
    return Rates(*wanted) if any(wanted) else None


def caller(reply: bytes, raw: bytes | None) -> bytes:
    """Who calls. The header counts only in a call that the gateway sent on."""
    if raw is not None and reply.startswith(subjects.GATEWAY_INBOX):
        said = headers.find(raw, _CALLER)
        if said:
            return said[:LONGEST_NAME]
    return b".".join(reply.split(b".", 2)[:2])[:LONGEST_NAME]
