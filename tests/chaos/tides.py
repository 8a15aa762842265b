"""Tides: a load that needs three nodes comes, stays and goes, again and again.

Nodes are added, emptied and taken away meanwhile. Whoever calls has an answer each time, and every event is handled:
counted by clients and a witness outside the platform.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from itertools import count, pairwise
from pathlib import Path
from statistics import median, quantiles

import nats

from tests.acceptance import outside
from tests.acceptance.conftest import Platform, running
from tests.chaos.dead_letters import DeadLetters
from tests.chaos.functions import Event, Function, on
from tests.chaos.publisher import Published, publish, spread
from tests.chaos.verdict import Verdict, judge
from tests.chaos.witness import Witness, witness

NODES, MAX_NODES, NODE_MEMORY_MB = 1, 4, 2048
CALLERS = 30  # with 128 MB each: 1.9 nodes full, which is three at three quarters
NEEDED = 3  # nodes
EBB_S = 120.0  # until one node and no instance are left
_POLL_S = 0.1
_SCALER = {  # seconds instead of minutes
    "MAYFLY_SCALER_WINDOW_S": "4",
    "MAYFLY_SCALER_AFTER_OUT_S": "2",
    "MAYFLY_SCALER_BETWEEN_IN_S": "1",
    "MAYFLY_SCALER_TICK_S": "0.5",
}
_SERVED = "import time\n\ndef handler(event, context):\n    time.sleep(0.05)\n    return event\n"
_KEEP_ALIVE_S = 2
_EACH_ITS_OWN = {"memory": 128, "activation": "eager", "max_instances": CALLERS}
_RISE_S = 60.0  # in which the nodes needed have to be there; the load lasts that long at most

SEA = Function(
    "tides-event",
    'def handler(event, context):\n    tell("tides-event", event["id"])\n',
    {"triggers": on("tides.>"), "keep_alive": _KEEP_ALIVE_S, "memory": 32},
)


@dataclass(frozen=True, kw_only=True)
class Plan:
    cycles: int
    calls: int  # in each, at least
    events: int  # in each


@dataclass(kw_only=True)
class Tide:
    """One cycle. ``codes`` counts the calls' answers; 0: none came, or another one's."""

    codes: Counter[int] = field(default_factory=Counter)
    times_s: list[float] = field(default_factory=list)
    nodes: list[tuple[float, int]] = field(default_factory=list)  # (seconds since the load came, nodes) at each change
    rose_s: float = 0.0  # until the nodes needed were there
    ebbed_s: float = 0.0  # from the last answer until one node and no instance were left

    @property
    def failed(self) -> int:
        return self.codes.total() - self.codes[200]

    @property
    def most_nodes(self) -> int:
        return max(nodes for _, nodes in self.nodes)

    @property
    def ebbed_one_by_one(self) -> bool:
        counts = [nodes for _, nodes in self.nodes]
        falling = counts[counts.index(max(counts)) :]
        return all(before - after <= 1 for before, after in pairwise(falling))

    @property
    def p50_ms(self) -> float:
        return 1000 * median(self.times_s)

    @property
    def p99_ms(self) -> float:
        return 1000 * quantiles(self.times_s, n=100)[98]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    plan: Plan
    tides: list[Tide]
    verdict: Verdict

    @property
    def good(self) -> bool:
        return self.verdict.good and not any(tide.failed for tide in self.tides)


@contextmanager
def shore(folder: Path) -> Iterator[Platform]:
    """A platform that grows to four nodes and shrinks to one within seconds."""
    flags = ("--nodes", str(NODES), "--max-nodes", str(MAX_NODES), "--node-memory", str(NODE_MEMORY_MB))
    with running(folder, *flags, environ=_SCALER) as platform:
        yield platform


async def tides(platform: Platform, plan: Plan, tell: Callable[[int, Tide], None] = lambda *_: None) -> Outcome:
    """On a platform that is theirs alone. ``tell`` hears of each when it is over."""
    published, events, found = Published(), list[Event](), list[Tide]()
    async with AsyncExitStack() as stack:
        told = await stack.enter_async_context(witness())
        await asyncio.to_thread(_deploy, platform, told)
        client = await stack.enter_async_context(outside.client(platform.nats))
        operator = await stack.enter_async_context(
            outside.client(platform.nats, user=platform.user, password=platform.password)
        )
        for cycle in range(plan.cycles):
            fresh = [Event(f"t{cycle}-{number}", f"event.tides.{number}", (SEA.name,)) for number in range(plan.events)]
            events += fresh
            found.append(await _tide(platform, client, plan, fresh, published))
            tell(cycle + 1, found[-1])
        verdict = await _verdict(operator, events, published, told)
    return Outcome(plan=plan, tides=found, verdict=verdict)


def _deploy(platform: Platform, told: Witness) -> None:
    outside.deploy(platform, "tides-call", _SERVED, keep_alive=_KEEP_ALIVE_S, **_EACH_ITS_OWN)
    outside.deploy(platform, SEA.name, SEA.source, **SEA.deployable(told.port))


async def _tide(platform: Platform, client: nats.NATS, plan: Plan, events: list[Event], published: Published) -> Tide:
    tide, started = Tide(), time.monotonic()
    async with _watching(platform, tide, started):
        expected_s, numbers = plan.calls * 0.06 / CALLERS, _numbers(plan, tide, started)
        await asyncio.gather(
            publish(client, spread(events, expected_s), published),
            *(_caller(client, tide, numbers) for _ in range(CALLERS)),
        )
        over = time.monotonic()
        await outside.until(lambda: _ebbed(platform), timeout=EBB_S, every=_POLL_S)
        tide.ebbed_s = time.monotonic() - over
    tide.rose_s = next((at for at, nodes in tide.nodes if nodes >= NEEDED), 0.0)
    return tide


def _numbers(plan: Plan, tide: Tide, started: float) -> Iterator[int]:
    """Of the calls: as many as the plan says, and more until the nodes needed have come, on however slow a machine."""
    for number in count():
        risen = any(nodes >= NEEDED for _, nodes in tide.nodes)
        if number >= plan.calls and (risen or time.monotonic() - started > _RISE_S):
            return
        yield number


async def _caller(client: nats.NATS, tide: Tide, numbers: Iterator[int]) -> None:
    for number in numbers:
        started = time.monotonic()
        answer = await outside.call(client, "tides-call", b"%d" % number)
        tide.times_s.append(time.monotonic() - started)
        own = answer.code != 200 or answer.body == b"%d" % number
        tide.codes[answer.code if own else 0] += 1


@asynccontextmanager
async def _watching(platform: Platform, tide: Tide, started: float) -> AsyncIterator[None]:
    async def watch() -> None:
        while True:
            nodes = len(await asyncio.to_thread(outside.nodes, platform))
            if not tide.nodes or tide.nodes[-1][1] != nodes:
                tide.nodes.append((time.monotonic() - started, nodes))
            await asyncio.sleep(_POLL_S)

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()
        await asyncio.wait({watching})


def _ebbed(platform: Platform) -> bool:
    return len(outside.nodes(platform)) == NODES and not outside.instances(platform)


async def _verdict(operator: nats.NATS, events: list[Event], published: Published, told: Witness) -> Verdict:
    letters = DeadLetters(operator)
    return judge(events, published.acknowledged, told.seen, told.first, await letters.read())
