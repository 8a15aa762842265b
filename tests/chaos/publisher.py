"""A client that loses nothing, on stock nats-py: an event is published until it is acknowledged, always with one id."""

import asyncio
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import nats
import nats.errors

from tests.chaos.functions import Event

SENDERS = 64  # events that are on their way at once
ACK_TIMEOUT_S = 1.0
GIVE_UP_S = 90.0
_PAUSE_S = 0.05


@dataclass
class Published:
    acknowledged: dict[str, int] = field(default_factory=dict)  # id → sequence in its stream
    sent_again: int = 0


def spread(events: Sequence[Event], seconds: float) -> list[tuple[float, Event]]:
    """Each with its moment, in seconds from the start: evenly."""
    return [(seconds * number / len(events), event) for number, event in enumerate(events)]


async def publish(connection: nats.NATS, timed: Iterable[tuple[float, Event]], published: Published) -> None:
    """Each event at its moment, the earliest first; later when the platform takes them slower."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    due = iter(timed)

    async def sender() -> None:
        for moment, event in due:
            await asyncio.sleep(started + moment - loop.time())
            sequence = await _acknowledged(connection, event, published)
            if sequence is not None:
                published.acknowledged[event.id] = sequence

    await asyncio.gather(*(sender() for _ in range(SENDERS)))


async def _acknowledged(connection: nats.NATS, event: Event, published: Published) -> int | None:
    """Its sequence, or None: it may be in the stream, or not, and nobody was promised anything."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + GIVE_UP_S
    while loop.time() < deadline:
        try:
            reply = await connection.request(
                event.subject, event.payload, timeout=ACK_TIMEOUT_S, headers={"Nats-Msg-Id": event.id}
            )
            answer = json.loads(reply.data)
            if "seq" in answer:
                return int(answer["seq"])
        except (nats.errors.Error, TimeoutError, OSError):
            pass  # the server is gone, or the stream has no leader: it may have been stored all the same
        published.sent_again += 1
        await asyncio.sleep(_PAUSE_S)
    return None
