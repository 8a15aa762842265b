"""A process that plays many nodes or routers on one connection."""

from collections.abc import Awaitable, Callable

import uvloop

from mayfly_chassis import config
from mayfly_chassis.bus import Bus
from mayfly_chassis.config import ServiceConfig


def run(role: str, play: Callable[[Bus], Awaitable[None]]) -> None:
    """``play`` it, connected as that role's settings in the environment say."""
    settings = config.load(ServiceConfig, role)

    async def connected() -> None:
        bus = await Bus.connect(
            settings.nats_url,
            name=f"simulated-{role}s",
            role=role,
            user=settings.nats_user,
            password=settings.nats_password(),
        )
        await play(bus)

    uvloop.run(connected())
