"""One version of a function at its owner: slots by node, calls that wait, instances that are coming.

Everything here is decided at once, without waiting for anything; the caller sends and answers afterwards.

Invariants
* Capacity comes only from the Route Cache (`route`); what is in a slot comes only from our own count (`take`,
  `release`).
* While a call waits no open slot is free but on nodes that are paused: whoever makes room calls `match` in the same
  step. So `take` is first come, first served without looking at the queue.
* A slot freed is handed to the oldest waiting call; a call is bound to a node only at that moment.
* The last used node is used first: the others stay idle and can be reclaimed.
"""

from collections.abc import Callable, Iterable

from mayfly_proto.errors import CallError
from mayfly_proto.records import Route, VersionSpec
from mayfly_router import activation
from mayfly_router.backlog import Backlog
from mayfly_router.call import Call
from mayfly_router.durations import Durations
from mayfly_router.gaps import Gaps
from mayfly_router.line import Line
from mayfly_router.nodes import Node
from mayfly_router.share import Share
from mayfly_router.starts import Starts

CLOCK_STEP_S = 1e-6  # nothing takes no time at all
AHEAD_S = 0.008  # of work that may lie ready behind each slot
MOST_AHEAD = 16  # calls of it
SMOOTHING = 0.2  # weight of a new sample in the mean service time


class Pool:
    """``gaps`` are the function's, whatever its versions."""

    def __init__(self, spec: VersionSpec, backlog: Backlog, gaps: Gaps | None = None) -> None:
        self.spec = spec
        self.name = spec.name
        self.version = spec.version
        self.queue = Line()
        self.shares: dict[str, Share] = {}
        self.starts = Starts()
        self.ready = 0  # instances on open shares
        self.slots = 0  # of them
        self.busy = 0  # on all shares
        self.owed = 0  # instances that give way as soon as they are free: see `yielding`
        self.service_s: float | None = None
        self.durations = Durations()
        self._concurrency = spec.concurrency
        self._gaps = gaps or Gaps()
        self._backlog = backlog
        self._free: list[Share] = []  # shares with a free slot, the last used at the end
        self._next_deadline = float("inf")
        self._waiting_since = 0.0

    # calls

    def take(self, now: float) -> Share | None:
        """A free slot, or None."""
        if not self._free:
            return None
        share = self._free[-1]
        if share.node.paused:
            another = self._another()
            if another is None:
                return None
            share = another
        share.busy += 1
        if not self.busy % self._concurrency:
            self._gaps.rise(now)
        self.busy += 1
        if share.busy >= share.slots:
            self._free.pop()
            share.free = False
        return share

    def _another(self) -> Share | None:
        """One whose node is not paused, the last used first; it is the last now."""
        share = next((share for share in reversed(self._free) if not share.node.paused), None)
        if share is not None:
            self._free.remove(share)
            self._free.append(share)
        return share

    def take_ahead(self, now: float) -> Share | None:
        """A place behind the calls in the slots, for a durable call of a function whose calls are short: the slot that
        frees need not wait for it to come. None when all have as many as is worth it."""
        depth = self._depth
        if depth:
            for share in self.shares.values():
                if share.takes and share.ahead < share.slots * depth:
                    if not share.ahead:
                        share.done_at = now
                    share.ahead += 1
                    return share
        return None

    @property
    def _depth(self) -> int:
        return 0 if self.service_s is None else min(MOST_AHEAD, int(AHEAD_S / self.service_s))

    def release(self, share: Share, now: float) -> Call | None:
        """A slot is free again. Returns the waiting call that has it now, if any; or, where one that lay ready there
        has it, the one that takes its place."""
        if share.ahead:
            share.ahead -= 1
            more = self.queue and not self.queue.urgent and share.takes and share.ahead < share.slots * self._depth
            share.ahead += bool(more)
            return self._next() if more else None
        if self.owed and share.open:
            self._pay(share)
        if self.queue and share.takes and share.busy <= share.slots:
            return self._next()
        self.vacate(share, now)
        return None

    def vacate(self, share: Share, now: float) -> None:
        """A slot is free again and nobody is to have it yet: the call itself comes back."""
        if share.ahead:
            share.ahead -= 1
            return
        share.busy -= 1
        self.busy -= 1
        if not self.busy % self._concurrency:
            self._gaps.fall(now)
        if not share.free:
            self._list(share)

    def occupy(self, node: Node, now: float) -> Share:
        """A call runs there that was sent by another owner, or by this one in a former life."""
        share = self.shares.get(node.name) or self._share(node)
        share.busy += 1
        if not self.busy % self._concurrency:
            self._gaps.rise(now)
        self.busy += 1
        self._unlist(share)
        self._list(share)
        return share

    def wait(self, call: Call, now: float) -> bool:
        """Queue a call. False: the queue is full; a durable call has its place, since it was asked for."""
        if call.deliveries:
            self._backlog.force(len(call.payload))
        elif self.queue.urgent >= self.spec.max_queue or not self._backlog.add(len(call.payload)):
            return False
        if not self.queue:
            self._waiting_since = now
            self._gaps.want(now)
        self.queue.append(call)
        self._next_deadline = min(self._next_deadline, call.deadline)
        return True

    def put_back(self, calls: Iterable[Call], now: float) -> None:
        """Queue calls again that no instance has seen, ahead of all others; they are let in always."""
        oldest_first = sorted(calls, key=lambda call: call.arrived)
        for call in reversed(oldest_first):
            self._backlog.force(len(call.payload))
            if not self.queue:
                self._waiting_since = now
            self.queue.appendleft(call)
            self._next_deadline = min(self._next_deadline, call.deadline)

    def match(self, now: float) -> list[tuple[Share, Call]]:
        """Give free slots to waiting calls."""
        pairs = []
        while self.queue and (share := self.take(now)) is not None:
            pairs.append((share, self._next()))
        while self.queue and not self.queue.urgent and (share := self.take_ahead(now)) is not None:
            pairs.append((share, self._next()))
        return pairs

    def expire(self, now: float) -> list[Call]:
        """Take out the waiting calls whose deadline has passed."""
        if now < self._next_deadline:
            return []
        late = [call for call in self.queue if call.deadline <= now]
        self._keep(call for call in self.queue if call.deadline > now)
        return late

    def empty(self) -> list[Call]:
        """Take out all waiting calls."""
        calls = list(self.queue)
        self._keep(())
        return calls

    def urgent(self) -> list[Call]:
        """Take out the waiting calls for whose answer somebody waits."""
        return self._take_out(lambda call: not call.deliveries)

    def durable(self) -> list[Call]:
        """Take out the others."""
        return self._take_out(lambda call: bool(call.deliveries))

    def remove(self, call: Call) -> None:
        """Take one out, if it waits here."""
        if call in self.queue:
            self._keep(waiting for waiting in self.queue if waiting is not call)

    def unpinned(self) -> list[Call]:
        """Take out the waiting calls that did not ask for this very version."""
        return self._take_out(lambda call: not call.pinned)

    def served(self, duration_s: float) -> None:
        duration_s = max(duration_s, CLOCK_STEP_S)
        mean = self.service_s
        self.service_s = duration_s if mean is None else mean + SMOOTHING * (duration_s - mean)

    def served_ahead(self, share: Share, count: int, now: float) -> None:
        """So many calls are done there since the last time, one behind the other in each slot."""
        self.served((now - share.done_at) * max(1, share.slots) / count)
        share.done_at = now

    # capacity

    def route(self, node: Node, route: Route | None, now: float) -> None:
        """The Route Cache's word on one node."""
        share = self.shares.get(node.name)
        if route is None:
            if share is not None:
                share.set_route(None)
                self.refresh(share, now)
            return
        if share is None:
            share = self._share(node)
        share.set_route(route)
        share.closed = False
        self.refresh(share, now)

    def close(self, share: Share) -> None:
        """The node refused a call: trust this share no more until the node's next word about it."""
        share.closed = True
        share.node.refusing.add(share)
        self._unlist(share)
        self._count()

    def leave(self, share: Share, now: float) -> None:
        """Its node drains, and nothing is sent there any more until it does not."""
        share.node.left[self] = now
        self.refresh(share, now)

    def refresh(self, share: Share, now: float) -> None:
        """The share, or the state of its node, has changed."""
        if share.valid:
            self.starts.ready(share.instances, now)
        self._unlist(share)
        self._list(share)
        self._count()

    def retire(self) -> set[str]:
        """Nobody needs its instances any longer. Returns the nodes that have some; they are told to stop them."""
        nodes = self.starts.nodes | set(self.shares)
        for node in nodes:
            self.starts.forget_node(node)
        for share in list(self.shares.values()):
            self.close(share)
        return nodes

    def shut(self) -> None:
        """No more of ours: what it holds is no capacity, and calls in flight end as they may."""
        for share in self.shares.values():
            share.closed = True
            share.free = False
            share.node.shares.discard(share)
            share.node.refusing.discard(share)
        self._free.clear()
        self.shares.clear()
        self.starts.forget_all()
        self._count()

    @property
    def held(self) -> int:
        return sum(share.held for share in self.shares.values())

    @property
    def staying(self) -> int:
        """How many of them are on nodes that do not drain."""
        return sum(share.held for share in self.shares.values() if not share.node.draining)

    # instances that are coming

    def demand(self, now: float, room: int, upstream: int = 0) -> activation.Demand:
        """``upstream``: events that wait in streams, behind those that wait here."""
        starts = self.starts
        return activation.Demand(
            queued=len(self.queue) + upstream,
            free=sum(share.slots - share.busy for share in self._free if not share.node.paused),
            busy=self.busy,
            ready=self.ready,
            starting=starts.covering,
            concurrency=self.spec.concurrency,
            room=room,
            eager=self.spec.activation == "eager",
            failing=starts.failures > 0 and not self.ready,
            service_s=self.service_s,
            cold_s=starts.cold_s,
            head_age_s=now - self.queue.since if self.queue else 0.0,
            waiting_s=now - self._waiting_since if self.queue else 0.0,
            since_order_s=now - starts.ordered_at,
        )

    def adopt_start(self, instance: str, node: Node, now: float) -> None:
        """An instance that starts there by another owner's order."""
        share = self.shares.get(node.name)
        if not (share and instance in share.instances):
            self.starts.adopt(instance, node.name, now)
            self.starts.on_draining(node.name, node.draining)

    @property
    def has_prospects(self) -> bool:
        """Something exists or is coming, so slots will be free one day."""
        return bool(self.busy or self.held or self.starts)

    def start_failed(self, instance: str, failure: CallError, now: float, jitter: float) -> list[Call]:
        """A start came to nothing. Returns the waiting calls when nothing is ready or coming that could serve them."""
        ours = self.starts.failed(instance, failure, now, jitter)
        return self.empty() if ours and not self.ready and not self.starts else []

    def hopeless(self, now: float) -> CallError | None:
        """The reason not even to wait: starts fail, and the next try is not due yet."""
        starts = self.starts
        many = starts.failures >= activation.FAILURES_BEFORE_BACKOFF
        return starts.failure if many and now < starts.retry_at and not self.ready and not starts else None

    def _share(self, node: Node) -> Share:
        share = self.shares[node.name] = Share(self, node)
        node.shares.add(share)
        return share

    def _next(self) -> Call:
        call = self.queue.popleft()
        self._backlog.remove(len(call.payload))
        return call

    def _take_out(self, chosen: Callable[[Call], bool]) -> list[Call]:
        calls = [call for call in self.queue if chosen(call)]
        if calls:
            self._keep([call for call in self.queue if not chosen(call)])
        return calls

    def _keep(self, calls: Iterable[Call]) -> None:
        kept = Line(calls)
        self._backlog.remove(sum(len(call.payload) for call in self.queue) - sum(len(call.payload) for call in kept))
        self.queue = kept
        self._next_deadline = min((call.deadline for call in kept), default=float("inf"))

    def _pay(self, share: Share) -> None:
        """The instance that is free now is one of those that give way."""
        self.owed -= 1
        share.give_way(1)
        self._unlist(share)
        self._list(share)
        self._count()

    def _list(self, share: Share) -> None:
        if share.busy < share.slots:
            if share.open:
                self._free.append(share)
                share.free = True
        elif not share.offered and not share.busy:
            self.shares.pop(share.node.name, None)
            share.node.shares.discard(share)

    def _unlist(self, share: Share) -> None:
        if share.free:
            self._free.remove(share)
            share.free = False

    def _count(self) -> None:
        shares = [share for share in self.shares.values() if share.open]
        self.ready = sum(share.ready for share in shares)
        self.slots = sum(share.slots for share in shares)

    def __repr__(self) -> str:
        return (
            f"<Pool {self.spec.name}@{self.spec.version}: {len(self.queue)} queued, {self.busy}/{self.slots} busy, "
            f"{self.ready} ready, {len(self.starts)} starting>"
        )
