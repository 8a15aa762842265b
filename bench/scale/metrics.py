"""What a large cluster's reports cost those who listen to them, in percent of a core: 1,000 nodes with 40 functions
each and eight routers with 10,000, at rest and busy. All of these nodes and routers are simulated."""

from collections.abc import Callable
from functools import partial
from typing import Any

from scale import catalogue, cpu
from scale.reports import COPIES, FUNCTIONS, NODES, percent
from scale.stage import Stage, stage

LISTENERS = ("scaler", "gateway", "activator")
ROUTERS = 8
BUSY = 3_000  # functions, with 4,500 pauses a second
Clocks = dict[str, Callable[[], float]]


async def measure(nodes: int = NODES, routers: int = ROUTERS, functions: int = FUNCTIONS) -> dict[str, Any]:
    async with stage() as here:
        await catalogue.publish(here.bus, catalogue.names(functions), consumers=False)
        clocks: Clocks = {"nats-server": partial(cpu.used_s, here.server.pid)}
        for role in LISTENERS:
            clocks[role] = (await here.service(role)).cpu_s
        figures = {"nobody reports": await percent(clocks)}
        for name, busy in (("at rest", 0), (f"{BUSY} functions busy", BUSY)):
            figures[name] = await _with(here, clocks, (nodes, functions, COPIES, busy), (routers, functions, busy))
        return figures


async def _with(here: Stage, clocks: Clocks, nodes: tuple[int, ...], routers: tuple[int, ...]) -> dict[str, float]:
    swarm, owners = await here.nodes(*nodes), await here.routers(*routers)
    figures = await percent(clocks | {"the nodes themselves": swarm.cpu_s, "the routers": owners.cpu_s})
    for member in (swarm, owners):
        member.kill()
    return figures
