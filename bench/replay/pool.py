"""One function's instances, played call by call: its router's queue and orders, its worker's reclaiming.

A call takes the instance that was used last, else it waits, and the router orders what `activation.need` says; whatever
comes first serves it, a slot that is free or an instance that is ready. Once a second the router reports, and what the
scaler wants is done at once. Of the idle instances the oldest goes first, when its time is over and the minimum stays.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from heapq import heappop, heappush

from mayfly_proto.records import FunctionLoad, VersionSpec
from mayfly_router import activation, wishes
from mayfly_router.activation import Demand
from mayfly_router.gaps import Gaps
from mayfly_router.pool import SMOOTHING
from replay.keeping import Keeping

LOOK_S = 0.025  # how often a router looks at calls that wait
NEVER = float("inf")


@dataclass
class Outcome:
    calls: int = 0
    waited: int = 0  # calls that found no free instance
    wait_s: float = 0.0
    cold: int = 0  # starts that calls waited for
    pre_warmed: int = 0  # starts by a window
    floor: int = 0  # starts by a minimum
    reclaimed: int = 0
    idle_gbs: float = 0.0
    busy_gbs: float = 0.0

    @property
    def started(self) -> int:
        return self.cold + self.pre_warmed + self.floor

    def __add__(self, other: "Outcome") -> "Outcome":
        return Outcome(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))


class Pool:
    def __init__(self, spec: VersionSpec, keeping: Keeping, cold_s: float, memory_mb: float) -> None:
        self.outcome = Outcome()
        self._spec = spec
        self._keeping = keeping
        self._cold_s = cold_s
        self._memory_gb = memory_mb / 1024
        self._gaps = Gaps()
        self._idle: deque[float] = deque()  # since when; who was used last is last
        self._running: list[tuple[float, float]] = []  # a heap: when the call ends, how long it took
        self._starting: list[float] = []  # a heap: when it is ready
        self._queue: deque[tuple[float, float]] = deque()  # when it came, how long it will take
        self._service_s: float | None = None
        self._ordered_at = -NEVER
        self._second = self._look = self._warm_from = self._warm_until = NEVER

    @property
    def instances(self) -> int:
        return len(self._idle) + len(self._running)

    def play(self, calls: Iterable[tuple[float, float]], end_s: float) -> Outcome:
        """All of it."""
        self.advance(calls, end_s)
        for since in self._idle:
            self._idled(end_s - since)
        return self.outcome

    def advance(self, calls: Iterable[tuple[float, float]], end_s: float) -> None:
        for moment, duration_s in calls:
            self._until(moment)
            self._arrive(moment, duration_s)
        self._until(end_s)

    # what happens

    def _until(self, moment: float) -> None:
        """Everything that is due before, in its order."""
        while True:
            ends = self._running[0][0] if self._running else NEVER
            ready = self._starting[0] if self._starting else NEVER
            expires = self._expiry() if self._idle else NEVER
            due = min(ends, ready, expires, self._second, self._look, self._warm_from, self._warm_until)
            if due > moment:
                return
            if due == ends:
                self._finish(due)
            elif due == ready:
                heappop(self._starting)
                self._free(due)
            elif due == expires:
                self.outcome.reclaimed += 1
                self._idled(due - self._idle.popleft())
            elif due == self._second:
                self._report(due)
            elif due == self._look:
                self._order(due)
            elif due == self._warm_from:
                self._warm_from = NEVER
                self._fill(due)
            else:
                self._warm_until = NEVER

    def _arrive(self, now: float, duration_s: float) -> None:
        self.outcome.calls += 1
        self._warm_from = NEVER
        if self._second == NEVER:
            self._second = now // 1 + 1
        if self._idle:
            self._idled(now - self._idle.pop())
            self._take(now, duration_s)
            return
        self.outcome.waited += 1
        self._gaps.want(now)
        self._queue.append((now, duration_s))
        self._order(now)

    def _finish(self, now: float) -> None:
        _, duration_s = heappop(self._running)
        mean = self._service_s
        self._service_s = duration_s if mean is None else mean + SMOOTHING * (duration_s - mean)
        self.outcome.busy_gbs += duration_s * self._memory_gb
        self._gaps.fall(now)
        self._free(now)
        if self._queue:
            self._order(now)
        elif not self._running:
            self._watch(now)

    def _free(self, now: float) -> None:
        """An instance has nothing to do."""
        if self._queue:
            arrived, duration_s = self._queue.popleft()
            self.outcome.wait_s += now - arrived
            self._take(now, duration_s)
            self._order(now)
        else:
            self._idle.append(now)

    def _take(self, now: float, duration_s: float) -> None:
        self._gaps.rise(now)
        heappush(self._running, (now + duration_s, duration_s))

    def _idled(self, seconds: float) -> None:
        self.outcome.idle_gbs += seconds * self._memory_gb

    # what is wanted

    def _order(self, now: float) -> None:
        self._look = now + LOOK_S if self._queue else NEVER
        if not self._queue:
            return
        arrived = self._queue[0][0]
        wanted = activation.need(
            Demand(
                queued=len(self._queue),
                busy=len(self._running),
                ready=len(self._running),
                starting=len(self._starting),
                room=self._spec.max_instances - self.instances - len(self._starting),
                service_s=self._service_s,
                cold_s=self._cold_s,
                head_age_s=now - arrived,
                waiting_s=now - arrived,
                since_order_s=now - self._ordered_at,
            )
        )
        if wanted:
            self._ordered_at = now
        self.outcome.cold += wanted
        self._start(wanted, now)

    def _start(self, count: int, now: float) -> None:
        for _ in range(count):
            heappush(self._starting, now + self._cold_s)

    def _fill(self, now: float) -> None:
        """Up to the minimum."""
        target = self._keeping.target
        warm = self._warm_from == NEVER != self._warm_until
        missing = wishes.minimum(self._spec, target, warm) - self.instances - len(self._starting)
        if missing > 0:
            by_window = missing > target.minimum
            self.outcome.pre_warmed += missing if by_window else 0
            self.outcome.floor += 0 if by_window else missing
            self._start(missing, now)

    def _report(self, now: float) -> None:
        idle_gaps, further_gaps = self._gaps.report()
        load = FunctionLoad(
            queued=len(self._queue),
            in_flight=len(self._running),
            ready=self.instances,
            starting=len(self._starting),
            calls=self.outcome.calls,
            service_ms=1000 * (self._service_s or 0.0),
            cold_ms=1000 * self._cold_s,
            idle_gaps=idle_gaps,
            further_gaps=further_gaps,
        )
        before = self._keeping.target
        over = self._keeping.second(load, now)
        self._second = NEVER if over and not self._running and not self._queue else now + 1
        if self._keeping.target is not before:
            self._fill(now)
            if not self._running:
                self._watch(now)

    def _watch(self, now: float) -> None:
        """It is idle: when one is to be there for the next call."""
        window = wishes.window(self._spec, self._keeping.target)
        idle_since = self._gaps.idle_since
        self._warm_from = self._warm_until = NEVER
        if window is not None and idle_since is not None and idle_since + window.end_s > now:
            self._warm_from = max(now, idle_since + window.begin_s)
            self._warm_until = idle_since + window.end_s

    # who goes

    def _expiry(self) -> float:
        """When the oldest idle instance goes."""
        live, target = self.instances, self._keeping.target
        warm = self._warm_from == NEVER != self._warm_until
        if live <= wishes.minimum(self._spec, target, warm):
            return NEVER
        keep_alive_s = target.further_keep_alive_s if live > 1 else target.keep_alive_s
        return self._idle[0] + (self._spec.idle_limit_s if keep_alive_s is None else keep_alive_s)
