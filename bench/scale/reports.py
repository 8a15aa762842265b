"""What the reports of 1,000 nodes with 40 functions each cost those who listen to them, in percent of a core."""

import asyncio
import importlib.util
from collections.abc import Callable
from functools import partial
from typing import Any

from scale import calls, catalogue, cpu, handovers
from scale.platform import Platform
from scale.stage import stage
from scale.waiting import agree

NODES, FUNCTIONS, COPIES = 1_000, 10_000, 4
LISTENERS = ("router", "activator", "scaler", "gateway")
SECONDS = 15.0
SETTLE_S = 5.0


async def measure(nodes: int = NODES, functions: int = FUNCTIONS, copies: int = COPIES) -> dict[str, Any]:
    """At rest without any node, then with all of them: the difference is what they cost. Then what a router does
    among them."""
    names = catalogue.names(functions)
    async with stage() as here:
        await catalogue.publish(here.bus, names)
        present = [role for role in LISTENERS if importlib.util.find_spec(f"mayfly_{role}")]
        router = await here.service("router", name="r1")
        listeners = {role: router if role == "router" else await here.service(role) for role in present}
        clocks: dict[str, Callable[[], float]] = {role: member.cpu_s for role, member in listeners.items()}
        clocks["nats-server"] = partial(cpu.used_s, here.server.pid)
        await agree(here.bus, "r1")
        before = await percent(clocks)
        swarm = await here.nodes(nodes, functions, copies)
        clocks["the nodes themselves"] = swarm.cpu_s
        await agree(here.bus, "r1")
        after = await percent(clocks)
        figures: dict[str, Any] = {
            name: {"without nodes": before.get(name, 0.0), "with them": share, "reports": share - before.get(name, 0.0)}
            for name, share in after.items()
        }
        one = Platform(here, names, router, figures)
        await calls.warm([one])
        figures |= await calls.cold(one)
        figures["another router"] = await handovers.measure(one)
        return figures


async def percent(clocks: dict[str, Callable[[], float]]) -> dict[str, float]:
    await asyncio.sleep(SETTLE_S)
    before = {name: clock() for name, clock in clocks.items()}
    await asyncio.sleep(SECONDS)
    return {name: (clock() - before[name]) / SECONDS * 100 for name, clock in clocks.items()}
