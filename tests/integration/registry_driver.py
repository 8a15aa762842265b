"""What tests of the registry's wiring share: verbs without a service around them, and a look at what is in NATS."""

import asyncio
import json
from collections.abc import Iterable
from typing import Any

from mayfly_broker.access import Access
from mayfly_chassis import jetstream
from mayfly_chassis.bus import Bus
from mayfly_proto import headers, storage, subjects
from mayfly_proto.records import VersionSpec
from mayfly_registry import draft, package
from mayfly_registry.allowed import Allowed
from mayfly_registry.consumers import Consumers, Info
from mayfly_registry.publish import Probe, Publication, Step
from mayfly_registry.store import Store
from mayfly_registry.wiring import Wiring

SOURCE = b"def handler(event, context):\n    return event\n"
ACCESS = Access(
    trigger_subjects=("orders.>",),
    publish_subjects=("alerts.>",),
    kv_buckets=("carts",),
    object_buckets=("uploads",),
)
STREAMS = (storage.EVENTS, storage.ASYNC, storage.SCHEDULES, "ORDERS")


async def answer_probes(router: Bus) -> None:
    """As the owner of all functions would."""

    def probed(subject: bytes, reply: bytes, _raw: bytes | None, _payload: bytes) -> None:
        router.publish(reply, headers=headers.block({headers.VERSION: subject.rpartition(b"@")[2].decode()}))

    await router.subscribe(subjects.FUNCTIONS, probed, queue=subjects.ROUTER_QUEUE)
    await router.flush()


def spec(*triggers: dict[str, Any], name: str = "hello", **settings: Any) -> VersionSpec:
    given = {"triggers": list(triggers), **settings}
    return draft.build(name, package.read(SOURCE, "hello.py"), given, Allowed(access=ACCESS))


def publication(bus: Bus, of: VersionSpec) -> Publication:
    return Publication(Store(bus), Wiring(bus), Probe(bus, 5.0), of, SOURCE, keep=50, patience_s=60.0)


async def deploy(bus: Bus, of: VersionSpec, last: Step | None = None) -> VersionSpec:
    """Stops right after a step, as kill -9 would."""
    deploying = publication(bus, of)
    steps = deploying.steps()
    async for step in steps:
        if step is last:
            break
    await steps.aclose()  # type: ignore[attr-defined]  # it is a generator
    return deploying.spec


async def consumers(bus: Bus, streams: Iterable[str] = STREAMS) -> dict[tuple[str, str], Info]:
    return {info.key: info for info in await Consumers(bus).on(streams)}


async def schedules(bus: Bus) -> dict[str, jetstream.Stored]:
    return await jetstream.newest(bus, storage.SCHEDULES, [*await jetstream.counts(bus, storage.SCHEDULES, ">")])


async def take(bus: Bus, consumer: tuple[str, str], count: int) -> list[bytes]:
    """Pull as a router does, acknowledge, and return the payloads: all that are there, at most ``count``."""
    replies: list[tuple[bytes, bytes]] = []
    ended = asyncio.Event()

    def received(_subject: bytes, reply: bytes, raw: bytes | None, payload: bytes) -> None:
        if reply:
            replies.append((reply, payload))
        if len(replies) == count or headers.status(raw) is not None:
            ended.set()

    inbox = bus.new_inbox()
    subscription = await bus.subscribe(inbox, received)
    request = {"batch": count, "expires": 500_000_000}  # then the server says that the time is over
    bus.publish(subjects.consumer_next(*consumer), json.dumps(request).encode(), reply=inbox)
    async with asyncio.timeout(10):
        await ended.wait()
    await subscription.unsubscribe()
    for reply, _ in replies:
        await bus.request(reply, b"+ACK")
    return [payload for _, payload in replies]
