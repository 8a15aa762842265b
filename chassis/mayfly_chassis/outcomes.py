"""What becomes of a durable call: asked for, and waited for."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import msgspec

from mayfly_chassis.bus import Bus
from mayfly_chassis.history import History
from mayfly_proto import api, results, storage, subjects

_LOOK_ANYWAY_S = 5.0  # a message may be lost while the connection is

Ask = Callable[[], Awaitable[api.Invocation]]


async def wait(
    bus: Bus, identity: str, ask: Ask, wait_s: float, *, stopped: Callable[[], bool] = lambda: False
) -> api.Invocation:
    """What ``ask`` says, as soon as there is nothing more to come, or else after ``wait_s``.

    Raises what ``ask`` raises, and `BusError`.
    """
    clock = asyncio.get_running_loop().time
    deadline = clock() + wait_s
    heard: list[api.Invocation] = []
    bell = asyncio.Event()

    def received(subject: bytes, _reply: bytes, raw: bytes | None, payload: bytes) -> None:
        heard[:] = [results.invocation(subject.decode(), raw, payload, datetime.now(UTC))]
        bell.set()

    subscription = await bus.subscribe(subjects.results_of(identity), received)
    try:
        known = await ask()
        while not results.is_final(known) and (left_s := deadline - clock()) > 0 and not stopped():
            try:
                async with asyncio.timeout(min(left_s, _LOOK_ANYWAY_S)):
                    await bell.wait()
                bell.clear()
                known = heard[0]
            except TimeoutError:
                known = await ask()
    finally:
        await subscription.unsubscribe()
    return known


async def complete(bus: Bus, known: api.Invocation) -> api.Invocation:
    """With its payload, also where that was too large to come along. Raises `BusError`."""
    if known.payload is not None or not known.size:
        return known
    message = await History(bus, storage.RESULTS, subjects.result(known.id, known.function)).newest()
    return known if message is None else msgspec.structs.replace(known, payload=message.payload)
