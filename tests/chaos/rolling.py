"""A steady load of calls, by NATS and by HTTP, warm and cold, and of events: whoever gets no result is counted."""

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import nats

from tests.acceptance import outside
from tests.acceptance.conftest import Platform
from tests.chaos.functions import Event, Function, on
from tests.chaos.publisher import Published, publish
from tests.chaos.witness import Witness

CALLERS = 12  # by NATS, half of them for a function whose every call is a cold start
HTTP_CALLERS = 4
EVENTS_PER_S = 50
_WARM = "import time\n\ndef handler(event, context):\n    time.sleep(0.02)\n    return event\n"
_COLD = "def handler(event, context):\n    return event\n"

HEARD = Function(
    "rolling-event",
    'def handler(event, context):\n    tell("rolling-event", event["id"])\n',
    {"triggers": on("rolling.>")},
)


@dataclass
class Load:
    codes: Counter[tuple[str, int]] = field(default_factory=Counter)  # (function or "http", code) → answers
    wrong: list[str] = field(default_factory=list)  # answers that are no result, in words
    published: Published = field(default_factory=Published)
    events: list[Event] = field(default_factory=list)

    def note(self, what: str, answer: outside.Answer, sent: bytes) -> None:
        self.codes[what, answer.code] += 1
        if answer.code != 200 or answer.body != sent:
            self.wrong.append(f"{what}: {answer.code} {answer.body[:300]!r}")


def deploy(platform: Platform, told: Witness) -> None:
    outside.deploy(platform, "rolling-warm", _WARM, memory=32, min_instances=2, idempotent=False)
    outside.deploy(platform, "rolling-cold", _COLD, memory=32, keep_alive=0)
    outside.deploy(platform, HEARD.name, HEARD.source, **HEARD.deployable(told.port))


@asynccontextmanager
async def steady(platform: Platform, gateways: Sequence[str], client: nats.NATS) -> AsyncIterator[Load]:
    """The load runs inside the block; every call that was begun has ended after it."""
    load, stop = Load(), asyncio.Event()
    names = itertools.cycle(["rolling-warm", "rolling-cold"])
    tasks = [asyncio.create_task(_by_nats(load, client, next(names), stop)) for _ in range(CALLERS)]
    tasks += [asyncio.create_task(_by_http(load, gateways, number, stop)) for number in range(HTTP_CALLERS)]
    tasks.append(asyncio.create_task(_events(load, client, stop)))
    try:
        yield load
    finally:
        stop.set()
        await asyncio.gather(*tasks)


async def _by_nats(load: Load, client: nats.NATS, function: str, stop: asyncio.Event) -> None:
    numbers = itertools.count()
    while not stop.is_set():
        sent = b"%d" % next(numbers)
        load.note(function, await outside.call(client, function, sent), sent)
        await asyncio.sleep(0.01)


async def _by_http(load: Load, gateways: Sequence[str], number: int, stop: asyncio.Event) -> None:
    """As a load balancer does it: who does not take the connection is passed over."""
    numbers = itertools.count()
    while not stop.is_set():
        sent = b"%d" % next(numbers)
        load.note("http", await asyncio.to_thread(_post, gateways, number, sent), sent)
        await asyncio.sleep(0.02)


def _post(gateways: Sequence[str], first: int, sent: bytes) -> outside.Answer:
    for base in (gateways[first % 2], gateways[1 - first % 2]):
        try:
            return outside.http_call(base, "POST", "/function/rolling-warm", sent)
        except ConnectionError:  # it has stopped listening
            continue
    return outside.Answer(0, b"no gateway takes connections")


async def _events(load: Load, client: nats.NATS, stop: asyncio.Event) -> None:
    for number in itertools.count():
        if stop.is_set():
            return
        event = Event(f"r{number}", f"event.rolling.{number}", (HEARD.name,))
        load.events.append(event)
        await publish(client, [(0.0, event)], load.published)
        await asyncio.sleep(1 / EVENTS_PER_S)
