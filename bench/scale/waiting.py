"""Until routers are what they are to be."""

import asyncio
import json
from contextlib import suppress

from mayfly_chassis.bus import Bus
from mayfly_chassis.errors import NoResponders, RequestTimeout
from mayfly_chassis.kv import Bucket
from mayfly_proto import headers, records, storage, subjects
from mayfly_proto.records import RouterMembers
from scale import catalogue

NOBODY = RouterMembers(epoch=0, members={})


async def agree(bus: Bus, *routers: str) -> None:
    """Until these are the members, the subscriptions of each follow, and every node takes them for the owners."""
    async with asyncio.timeout(300):
        while sorted((members := await _members(bus)).members) != sorted(routers):
            await asyncio.sleep(0.02)
        for router in routers:
            while await _epoch_done(bus, router) < members.epoch:
                await asyncio.sleep(0.02)
            while not await _takes_all(bus, router):
                await asyncio.sleep(0.3)


async def _members(bus: Bus) -> RouterMembers:
    entry = await Bucket(bus, storage.ROUTERS).get(storage.ROUTER_MEMBERS_KEY)
    return NOBODY if entry is None else records.decode(entry.value, RouterMembers)


async def _epoch_done(bus: Bus, router: str) -> int:
    with suppress(NoResponders, RequestTimeout):
        return int((await bus.request(subjects.router_ping(router), timeout_s=10)).payload)
    return -1


async def _takes_all(bus: Bus, router: str) -> bool:
    """It has every node that there is, and may send to it."""
    leases = await Bucket(bus, storage.NODES).keys(limit=10**6)
    state = json.loads((await bus.request(subjects.router_state(router), timeout_s=10)).payload)
    return sum(node["usable"] for node in state["nodes"].values()) == len(leases)


async def answered(bus: Bus, subject: str) -> None:
    """Until somebody says that this can be called."""
    probe = headers.block({headers.PROBE: "1"})
    while True:
        with suppress(NoResponders, RequestTimeout):
            reply = await bus.request(subject, headers=probe, timeout_s=0.5)
            if headers.SERVICE_ERROR.encode() not in (reply.headers or b""):
                return
        await asyncio.sleep(0.001)


async def all_answer(bus: Bus, names: list[str]) -> None:
    await catalogue.together(answered(bus, subjects.call(name)) for name in names)
