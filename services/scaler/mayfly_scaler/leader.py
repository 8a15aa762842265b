"""Which of the scalers acts: the one that holds the lease in KV ``leases``.

The lease ends by itself five seconds after it was written last. Whoever holds it counts those seconds by its own clock,
from before the request that wrote it, and less a margin: so it has stopped before anybody else can begin, however long
it was paused. `Leader.leading` looks at the clock each time, and is to be asked before every act, with no await between
the two. What was on its way all the same is fenced by the epoch where orders arrive, and by compare-and-set where
wishes are stored.

The epoch is the bucket's own revision of the lease's first write, so it grows although an expired key leaves nothing
behind; the lease is written a second time to say it, and counts only from then on.
"""

import asyncio
from collections.abc import Callable
from time import monotonic

import structlog

from mayfly_chassis.bus import Bus
from mayfly_chassis.errors import BusError, KeyExists, WrongRevision
from mayfly_chassis.kv import Bucket
from mayfly_proto import records, storage
from mayfly_proto.records import ScalerLease

LEASE_S = 5
MARGIN_S = 1.0  # by which a holder stops before the lease ends: the server counts in whole seconds
RENEW_S = 1.5
LOOK_S = 0.5  # of those that do not lead

_log = structlog.get_logger()


class Leader:
    """``on_lead()`` is called each time that this scaler begins to lead."""

    def __init__(
        self, bus: Bus, scaler: str, on_lead: Callable[[], None], clock: Callable[[], float] = monotonic
    ) -> None:
        self.scaler = scaler
        self.epoch = 0  # of the last time that this scaler led
        self._bus = bus
        self._on_lead = on_lead
        self._clock = clock
        self._bucket = Bucket(bus, storage.LEASES)
        self._revision = 0  # of the lease, while it is held
        self._until = float("-inf")

    @property
    def leading(self) -> bool:
        """Whether this scaler may act, now."""
        return self._clock() < self._until

    def __repr__(self) -> str:
        return f"<Leader {self.scaler}: {'leads' if self.leading else 'stands by'}, epoch {self.epoch}>"

    async def keep(self) -> None:
        """Take the lease when it is free, and renew it. Runs until cancelled."""
        while True:
            try:
                await self.step()
            except BusError as error:
                _log.warning("leader.unreachable", error=str(error))
            await asyncio.sleep(RENEW_S if self._revision else LOOK_S)

    async def step(self) -> None:
        if self._revision:
            await self._renew()
        elif await self._bucket.get(storage.SCALER_LEASE_KEY) is None:
            await self._take()

    async def resign(self) -> None:
        """Give the lease up, so that another need not wait for its end. Not while `keep` runs; it may have been
        cancelled in the midst of a renewal, of which only the server knows the revision."""
        self._revision, self._until = 0, float("-inf")
        try:
            entry = await self._bucket.get(storage.SCALER_LEASE_KEY)
            if entry is not None and self._is_ours(entry.value):
                await self._bucket.delete(storage.SCALER_LEASE_KEY, revision=entry.revision)
        except BusError as error:
            _log.warning("leader.not_resigned", error=str(error))

    async def _take(self) -> None:
        try:
            first = await self._bucket.create(storage.SCALER_LEASE_KEY, self._lease(0), ttl_s=LEASE_S)
        except KeyExists:
            return
        self.epoch = max(first, self.epoch + 1)  # even if the bucket was made anew
        await self._write(first)
        if self._revision:
            _log.info("leader.leads", epoch=self.epoch)
            self._on_lead()

    async def _renew(self) -> None:
        if await self._write(self._revision):
            return
        entry = await self._bucket.get(storage.SCALER_LEASE_KEY)
        if entry is not None and self._is_ours(entry.value):
            self._revision = entry.revision  # a write of ours whose acknowledgement was lost
            return
        self._revision = 0
        self._until = float("-inf")
        _log.warning("leader.lost", epoch=self.epoch)

    async def _write(self, revision: int) -> bool:
        began = self._clock()
        lease = self._lease(self.epoch)
        try:
            self._revision = await self._bucket.update(storage.SCALER_LEASE_KEY, lease, revision, ttl_s=LEASE_S)
        except WrongRevision:
            return False
        self._until = began + LEASE_S - MARGIN_S
        return True

    def _is_ours(self, value: bytes) -> bool:
        lease = records.readable(value, ScalerLease)
        return lease is not None and 0 < lease.epoch == self.epoch

    def _lease(self, epoch: int) -> bytes:
        return records.encode(ScalerLease(scaler=self.scaler, epoch=epoch, client=self._bus.identity))
