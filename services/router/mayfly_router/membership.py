"""Who the routers are: one key, written by compare-and-set, whose epoch fences whoever acts on an older one.

Every router holds a lease key of its own besides. One that is gone shows by the server's disconnect event (confirmed by
a ping that nobody hears, for it may be connecting again) or by the end of its lease; who sees it first takes it out.
"""

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress

import structlog

from mayfly_chassis.bus import Bus
from mayfly_chassis.errors import BusError, KeyExists, NoResponders, RequestTimeout, WrongRevision
from mayfly_chassis.kv import Bucket
from mayfly_chassis.mirror import Mirror
from mayfly_proto import records, storage, subjects
from mayfly_proto.records import Client, RouterMembers

LEASE_S = 10
RENEW_S = 3.0
PING_S = 0.5
NOBODY = RouterMembers(epoch=0, members={})

_log = structlog.get_logger()


class Replaced(Exception):
    """Another router has started under this one's name."""


class Membership:
    """``on_change(members)`` is called synchronously for every new epoch."""

    def __init__(self, bus: Bus, router: str, on_change: Callable[[RouterMembers], None]) -> None:
        self._bus = bus
        self._router = router
        self._on_change = on_change
        self._bucket = Bucket(bus, storage.ROUTERS)
        self._mirror = Mirror(bus, storage.ROUTERS, self._changed)
        self._members = NOBODY
        self._identities: list[Client] = []  # under which this router has been written
        self._suspects: set[str] = set()
        self._doubted = False
        self._leaving = False
        self._work = asyncio.Event()
        self._turn = asyncio.Lock()

    async def join(self) -> None:
        await self._renew()
        await self._mirror.start()
        await self._write_self()

    async def keep(self) -> None:
        """Renew the lease, take out who is gone, come back when taken out. Runs until this router leaves."""
        while not self._leaving:
            with suppress(TimeoutError):
                async with asyncio.timeout(RENEW_S):
                    await self._work.wait()
            self._work.clear()
            try:
                async with self._turn:
                    await self._keep()
            except BusError as error:
                _log.warning("membership.unreachable", error=str(error))

    async def leave(self) -> None:
        """Out of the members, so that the others take over; then the lease goes."""
        self._leaving = True
        if not self._identities:
            return  # it has not become one; whoever is called so is another
        async with self._turn:
            # Always a new epoch: a write of oneself as a member that is under way (joining was broken off) is too late.
            await self._edit(self._others, always=True)
            await self._bucket.delete(self._router)

    async def stop(self) -> None:
        await self._mirror.stop()

    def disconnected(self, client: Client) -> None:
        """The server's word that a connection has ended."""
        self.suspect(name for name, known in self._members.members.items() if known == client)

    def suspect(self, names: Iterable[str]) -> None:
        self._suspects.update(name for name in names if name != self._router)
        self.check()

    def doubt(self) -> None:
        """A worker follows other members: read them again."""
        self._doubted = True
        self.check()

    def check(self) -> None:
        """Look at everything now rather than at the next turn."""
        self._work.set()

    def _others(self, members: dict[str, Client]) -> dict[str, Client]:
        return {name: client for name, client in members.items() if name != self._router}

    def _changed(self, key: str, value: bytes | None) -> None:
        if key == storage.ROUTER_MEMBERS_KEY:
            self._adopt(NOBODY if value is None else records.decode(value, RouterMembers))
        elif value is None and key in self._members.members:
            self.suspect([key])

    def _adopt(self, members: RouterMembers) -> None:
        if members.epoch <= self._members.epoch:
            return
        self._members = members
        self._on_change(members)
        if members.members.get(self._router) != self._bus.identity:
            self.check()

    async def _keep(self) -> None:
        if self._leaving:
            return
        await self._renew()
        if self._doubted:
            self._doubted = False
            await self._edit(lambda members: members)
        await self._take_out_suspects()
        if self._members.members.get(self._router) != self._bus.identity:
            await self._write_self()

    async def _renew(self) -> None:
        lease = records.encode(self._bus.identity)
        await self._bucket.put(self._router, lease, ttl_s=LEASE_S)

    async def _take_out_suspects(self) -> None:
        known = self._members.members.keys() - {self._router}
        suspects = set(self._suspects)
        doubtful = {name for name in known if name in suspects or name not in self._mirror}
        gone = {name for name in doubtful if not await self._answers(name)}
        self._suspects -= suspects  # those of whom word came meanwhile are for the next turn
        if gone:
            _log.warning("routers.gone", routers=sorted(gone))
            await self._edit(lambda members: {n: client for n, client in members.items() if n not in gone})

    async def _write_self(self) -> None:
        """Be one of the members under the present connection. Members that do not answer are not taken along."""
        known = self._members.members
        if (other := known.get(self._router)) and other not in self._identities and self._identities:
            raise Replaced(f"another router has started as {self._router!r}; names must differ")
        identity = self._bus.identity
        dead = {name for name in known if name != self._router and not await self._answers(name)}
        self._identities = [*self._identities[-4:], identity]
        await self._edit(
            lambda members: {n: client for n, client in members.items() if n not in dead} | {self._router: identity}
        )

    async def _edit(self, change: Callable[[dict[str, Client]], dict[str, Client]], *, always: bool = False) -> None:
        """Compare-and-set until it is written or, unless it is to be a new epoch ``always``, there is nothing to
        write."""
        while True:
            entry = await self._bucket.get(storage.ROUTER_MEMBERS_KEY)
            before = NOBODY if entry is None else records.decode(entry.value, RouterMembers)
            after = change(before.members)
            if after == before.members and not always:
                self._adopt(before)
                return
            epoch = max(before.epoch, self._members.epoch) + 1  # even if the bucket was made anew
            members = RouterMembers(epoch=epoch, members=after)
            try:
                if entry is None:
                    await self._bucket.create(storage.ROUTER_MEMBERS_KEY, records.encode(members))
                else:
                    await self._bucket.update(storage.ROUTER_MEMBERS_KEY, records.encode(members), entry.revision)
            except (KeyExists, WrongRevision):
                continue  # another was faster
            self._adopt(members)
            return

    async def _answers(self, name: str) -> bool:
        """False only when nobody listens there: one that is slow keeps its place as long as its lease holds."""
        try:
            await self._bus.request(subjects.router_ping(name), timeout_s=PING_S)
        except NoResponders:
            return False
        except RequestTimeout:
            return name in self._mirror
        return True
