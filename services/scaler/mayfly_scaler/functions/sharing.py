"""Says who may have how much, while there is not enough for all.

Only those are named whose share is less than they could use: everybody else may go on ordering, and when that finds no
place, `Blocked` says so and the shares are worked out again at once. As long as nodes can be added, full means waiting
for them, a few seconds.
"""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from math import ceil

from mayfly_chassis.bus import Bus
from mayfly_chassis.errors import BusError
from mayfly_proto import records, states, subjects
from mayfly_proto.messages import Blocked, Refusal
from mayfly_proto.records import Shares
from mayfly_scaler.catalog import Catalog
from mayfly_scaler.functions.function import Function
from mayfly_scaler.functions.shares import Want, shares
from mayfly_scaler.functions.targets import Targets
from mayfly_scaler.leader import Leader
from mayfly_scaler.reports import Reports

FULL = 0.9  # of the memory of all nodes
NEAR = 0.7  # of that
AGAIN_S = 0.05
TURN_S = 5.0  # for which one function comes before another when neither has an instance
GROWTH_S = 5.0  # that nodes may take to come, before what there is is shared out
MOMENTARY = {Refusal.SLOTS, Refusal.DRAINING, Refusal.STALE, Refusal.LABELS}  # blocked, and the cluster is not full


class Sharing:
    def __init__(
        self,
        bus: Bus,
        leader: Leader,
        reports: Reports,
        catalog: Catalog,
        targets: Targets,
        functions: Mapping[str, Function],
        can_grow: Callable[[], bool],
    ) -> None:
        self._bus = bus
        self._leader = leader
        self._reports = reports
        self._catalog = catalog
        self._targets = targets
        self._functions = functions
        self._can_grow = can_grow
        self._full_since: float | None = None
        self._said_at = float("-inf")
        self._soon: asyncio.TimerHandle | None = None
        reports.on_blocked.append(self._blocked)

    def stop(self) -> None:
        if self._soon is not None:
            self._soon.cancel()

    def share(self) -> None:
        """Once a second, and after `Blocked`."""
        if not self._leader.leading:
            return
        now = self._reports.clock()
        capacity_mb, used_mb = self._room()
        wants = self._wants(now) if self._is_near(used_mb, capacity_mb) else {}
        if sum(want.demand_mb for want in wants.values()) <= capacity_mb:
            self._full_since = None
            return
        self._full_since = self._full_since or now
        if not capacity_mb or (self._can_grow() and now - self._full_since < GROWTH_S):
            return
        fair = shares(wants, capacity_mb, int(now / TURN_S))
        short = {name: count for name, count in fair.items() if count < wants[name].instances}
        self._said_at = now
        with suppress(BusError):  # the next are a second away
            self._bus.publish(subjects.SHARES, records.encode(Shares(epoch=self._leader.epoch, shares=short)))

    def _blocked(self, blocked: Blocked) -> None:
        if self._soon is None and blocked.reason not in MOMENTARY:
            wait_s = max(0.0, self._said_at + AGAIN_S - self._reports.clock())
            self._soon = asyncio.get_running_loop().call_later(wait_s, self._share_again)

    def _share_again(self) -> None:
        self._soon = None
        self.share()

    def _wants(self, now: float) -> dict[str, Want]:
        blocked = {order.function: order for order in self._reports.fresh_blocked() if order.reason not in MOMENTARY}
        names = self._reports.owners.keys() | blocked.keys()
        found = ((name, self._want(name, blocked.get(name), now)) for name in names)
        largest_mb = max((lease.memory_mb for lease in self._reports.leases.values()), default=0)
        return {
            name: want
            for name, want in found
            if want is not None
            and want.instances
            and want.memory_mb <= largest_mb  # no share helps one that fits nowhere
        }

    def _want(self, name: str, blocked: Blocked | None, now: float) -> Want | None:
        spec, function = self._catalog.current(name), self._functions.get(name)
        if spec is None:
            return None
        slots = function.demand(now) if function else 0.0
        least = max(ceil(slots / spec.concurrency), spec.min_instances, self._targets[name].minimum)
        if blocked is not None:
            load = self._reports.function(name)
            least = max(least, (load.ready + load.starting if load else 0) + blocked.instances)
        return Want(min(least, spec.max_instances), spec.memory_mb, spec.reserved, spec.weight)

    def _room(self) -> tuple[float, int]:
        """What there is to share, and how much is promised. A node is there as long as its lease: a report that is late
        takes nothing from anybody."""
        capacity_mb = used_mb = 0
        for name, lease in self._reports.leases.items():
            heard = self._reports.nodes.get(name)
            load = heard.load if heard is not None else None
            if not lease.draining and (load is None or load.state == states.Node.UP.value):
                capacity_mb += lease.memory_mb
                used_mb += load.memory_used_mb if load is not None else 0
        return FULL * capacity_mb, used_mb

    def _is_near(self, used_mb: float, capacity_mb: float) -> bool:
        """Far from full nobody's demand needs to be known: it would be met, or said to be blocked."""
        return used_mb >= NEAR * capacity_mb or any(True for _ in self._reports.fresh_blocked())
