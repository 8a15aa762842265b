"""One storm: a seed's events are published while a seed's kills happen; then all is waited for, and judged."""

import asyncio
import random
import time
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass

import nats
import nats.errors
import nats.js.errors

from tests.acceptance import outside
from tests.acceptance.conftest import Platform
from tests.chaos import functions
from tests.chaos.dead_letters import DeadLetters
from tests.chaos.functions import POISON, Event
from tests.chaos.killer import Killer, moments
from tests.chaos.publisher import Published, publish, spread
from tests.chaos.verdict import Verdict, judge
from tests.chaos.witness import Witness, witness

SETTLE_S = 120.0  # after the last kill, for everything to be handled
STREAMS = ("EVENTS", "ASYNC", "SCHEDULES")
_POLL_S = 0.25


@dataclass(frozen=True, kw_only=True)
class Plan:
    seed: int
    events: int
    seconds: float  # over which events are published, and kills happen
    kills: int  # of each service


@dataclass(frozen=True, kw_only=True)
class Outcome:
    plan: Plan
    verdict: Verdict
    kills: Counter[str]
    sent_again: int
    poisoned: int  # dead letters that had to be
    settled_s: float  # from the last kill, or the last event published, until nothing was left to do


async def storm(platform: Platform, plan: Plan) -> Outcome:
    """On a platform that is this storm's own."""
    rng = random.Random(plan.seed)
    events = list(functions.events(rng, plan.seed, plan.events))
    killer, published = Killer(platform, rng), Published()
    async with AsyncExitStack() as stack:
        told = await stack.enter_async_context(witness())
        await asyncio.to_thread(_deploy, platform, told.port)
        publisher = await stack.enter_async_context(outside.client(platform.nats, error_cb=_expected))
        operator = await stack.enter_async_context(
            outside.client(platform.nats, user=platform.user, password=platform.password, error_cb=_expected)
        )
        await asyncio.gather(
            publish(publisher, spread(events, plan.seconds), published),
            killer.kill(moments(rng, plan.kills, plan.seconds)),
        )
        started = time.monotonic()
        letters = DeadLetters(operator)
        verdict = await _settled(operator, events, published, told, letters)
    return Outcome(
        plan=plan,
        verdict=verdict,
        kills=killer.killed,
        sent_again=published.sent_again,
        poisoned=sum(letter.function == POISON.name for letter in letters.all),
        settled_s=time.monotonic() - started,
    )


async def _expected(_error: Exception) -> None:
    """The server is killed again and again: nats-py would print a traceback for each attempt to reach it."""


def _deploy(platform: Platform, witness_port: int) -> None:
    for function in functions.ALL:
        outside.deploy(platform, function.name, function.source, **function.deployable(witness_port))


async def _settled(
    operator: nats.NATS, events: list[Event], published: Published, told: Witness, letters: DeadLetters
) -> Verdict:
    """Once nothing is missing and nothing is on its way; or what it looks like when the time is up."""
    deadline = time.monotonic() + SETTLE_S
    while True:
        dead = await letters.read()
        verdict = judge(events, published.acknowledged, told.seen, told.first, dead)
        done = not verdict.missing and await _nothing_on_its_way(operator)
        if done or time.monotonic() > deadline:
            return judge(events, published.acknowledged, told.seen, told.first, await letters.read())
        await asyncio.sleep(_POLL_S)


async def _nothing_on_its_way(operator: nats.NATS) -> bool:
    """No consumer waits for anything: so nothing more will run a second time."""
    jetstream = operator.jetstream(timeout=2)
    try:
        for stream in STREAMS:
            for consumer in await jetstream.consumers_info(stream):
                if consumer.num_pending or consumer.num_ack_pending:
                    return False
    except (nats.errors.Error, nats.js.errors.Error, TimeoutError):
        return False
    return True
