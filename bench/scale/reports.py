"""What the reports of 1,000 nodes with 40 functions each cost those who listen to them, in percent of a core."""

import asyncio
import importlib.util
from typing import Any

import psutil

from scale import catalogue, router
from scale.stage import Member, Stage, stage

NODES, FUNCTIONS, COPIES = 1_000, 10_000, 4
LISTENERS = ("router", "activator", "scaler")
SECONDS = 15.0


async def measure() -> dict[str, Any]:
    """At rest without any node, then with all of them: the difference is what they cost."""
    async with stage() as here:
        await catalogue.publish(here.bus, catalogue.names(FUNCTIONS))
        present = [role for role in LISTENERS if importlib.util.find_spec(f"mayfly_{role}")]
        listeners = {role: await here.service(role, **{"name": "r1"} if role == "router" else {}) for role in present}
        await asyncio.sleep(5)
        before = await percent(here, listeners)
        nodes = await here.nodes(NODES, FUNCTIONS, COPIES)
        await router.agree(here.bus, "r1")
        await asyncio.sleep(5)
        after = await percent(here, listeners | {"the nodes themselves": nodes})
        figures: dict[str, Any] = {
            name: {"percent": share - before.get(name, 0.0), "percent_without_nodes": before.get(name)}
            for name, share in after.items()
        }
        names = catalogue.names(FUNCTIONS)
        figures["with all of them"] = {
            **await router.at_rest(here.bus, listeners["router"]),
            **await router.warm(here.bus, listeners["router"], names),
            **await router.cold(here.bus, names),
            **await router.changes(here, names),
        }
        return figures


async def percent(here: Stage, members: dict[str, Member]) -> dict[str, float]:
    server = psutil.Process(here.server.pid)

    def used() -> dict[str, float]:
        return {name: member.cpu_s() for name, member in members.items()} | {"nats-server": sum(server.cpu_times()[:2])}

    before = used()
    await asyncio.sleep(SECONDS)
    return {name: (now - before[name]) / SECONDS * 100 for name, now in used().items()}
