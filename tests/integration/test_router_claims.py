"""Claims in KV: who runs what must run once."""

import asyncio
import time

import pytest

from mayfly_chassis.bus import Bus
from mayfly_proto.records import IdempotencyRecord
from mayfly_router.durable import claims
from mayfly_router.durable.claims import Claims
from tests.conftest import Connect

TICK = claims.key("hello", "t1 2026-11-25T18:05:00Z")


@pytest.fixture
async def bus(connect: Connect) -> Bus:
    return await connect("router")


async def test_of_two_that_claim_the_same_one_runs(bus: Bus, connect: Connect) -> None:
    """Whichever router asks first: a tick that the server makes twice is two messages, and one run."""
    routers = [Claims(bus), Claims(await connect("router"))]
    answers = await asyncio.gather(*(routers[n % 2].claim(TICK, f"S{n}", ttl_s=60) for n in range(10)))
    assert sum(answer is None for answer in answers) == 1
    first = next(f"S{n}" for n, answer in enumerate(answers) if answer is None)
    assert {answer.invocation for answer in answers if answer is not None} == {first}


async def test_a_claim_is_its_own_invocations_however_often_that_comes(bus: Bus) -> None:
    """A message that is delivered again, as after a kill of its worker, is not a second one."""
    found = Claims(bus)
    assert await found.claim(TICK, "S1", ttl_s=60) is None
    assert await found.claim(TICK, "S1", ttl_s=60) is None
    assert await found.claim(TICK, "S2", ttl_s=60) is not None


async def test_a_claim_that_came_to_nothing_is_the_next_ones(bus: Bus) -> None:
    """By its own word, or because whoever had it is long overdue; to a result everybody keeps."""
    found = Claims(bus)
    assert await found.claim("hello.k", "A1", ttl_s=60, until=time.time() - 1) is None
    assert await found.claim("hello.k", "A2", ttl_s=60) is None
    await found.keep("hello.k", IdempotencyRecord(invocation="A2", headers=b"NATS/1.0\r\n\r\n", payload=b"7"), 60)
    for invocation in ("A1", "A2", "A3"):
        kept = await found.claim("hello.k", invocation, ttl_s=60)
        assert kept is not None and kept.payload == b"7"
    await found.drop("hello.k")
    assert await found.claim("hello.k", "A4", ttl_s=60) is None
