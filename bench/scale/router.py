"""What a router costs with 10, 1,000 and 10,000 functions: memory, its start, rest, calls, deploys, and the moments in
which another router comes, goes and is killed.

There is a platform for each size, side by side, and warm calls are measured on them in turn, so a ratio is taken within
a round: machines are noisy.
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from scale import calls, catalogue, handovers
from scale.platform import Platform
from scale.rest import at_rest
from scale.stage import stage
from scale.waiting import agree

SIZES = (10, 1_000, 10_000)
NODES = 10
RATIOS = ("cold_p50_ms", "deploy_cpu_ms", "deploy_p50_ms")


async def measure(sizes: tuple[int, ...] = SIZES) -> dict[str, Any]:
    async with AsyncExitStack() as stack:
        platforms = [await stack.enter_async_context(platform(size)) for size in sizes]
        ratios = await calls.warm(platforms)
        for one in platforms:
            one.figures |= await calls.cold(one)
            one.figures |= await calls.deploys(one)
            one.figures["another router"] = await handovers.measure(one)
    figures = {f"{len(one.names)} functions": one.figures for one in platforms}
    smallest, largest = platforms[0].figures, platforms[-1].figures
    ratios |= {name: largest[name] / smallest[name] for name in RATIOS}
    kb = (largest["router_mb"] - smallest["router_mb"]) * 1024 / max(1, sizes[-1] - sizes[0])
    return figures | {f"{sizes[-1]} to {sizes[0]}": ratios, "router_kb_a_function": kb}


@asynccontextmanager
async def platform(size: int) -> AsyncIterator[Platform]:
    """A router alone, then with nodes that have an instance of every function."""
    names = catalogue.names(size)
    async with stage() as here:
        await catalogue.publish(here.bus, names)
        await here.service("activator")
        router = await here.service("router", name="r1")
        await agree(here.bus, "r1")
        figures: dict[str, Any] = {"start_to_ready_s": router.ready_s, "router_mb": router.resident_mb()}
        figures["nothing runs"] = await at_rest(here.bus, router)
        await here.nodes(NODES, size, 1)
        await agree(here.bus, "r1")
        figures["an instance of each is idle"] = await at_rest(here.bus, router)
        yield Platform(here, names, router, figures)
