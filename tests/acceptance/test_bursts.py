"""Many calls at once: every one is answered once, and no more instances start than the rule and the limit allow."""

import asyncio
from typing import Any

from tests.acceptance import outside

ECHO = """
import time

def handler(event, context):
    time.sleep(event["sleep"])
    return event["n"]
"""


async def burst(platform: Any, function: str, calls: int, sleep: float) -> list[outside.Answer]:
    async with outside.client(platform.nats) as connection:
        return list(
            await asyncio.gather(
                *(
                    outside.call(connection, function, b'{"n": %d, "sleep": %f}' % (n, sleep), timeout=60)
                    for n in range(calls)
                )
            )
        )


async def test_200_calls_at_once_to_zero_are_each_answered_once(platform: Any) -> None:
    """A burst on a function with no instance: 200 calls, 200 right answers, at most 200 instances."""
    outside.deploy(platform, "burst", ECHO, memory=32, timeout=30, keep_alive=2, max_instances=200)
    answers = await burst(platform, "burst", 200, 0.05)
    assert [(answer.code, answer.body) for answer in answers] == [(200, b"%d" % n) for n in range(200)]
    started = len({answer.headers["Mayfly-Invocation"] for answer in answers})
    assert started == 200, "an invocation id came twice"
    cold = sum(answer.headers["Mayfly-Start"] == "cold" for answer in answers)
    assert 1 <= cold <= 200
    assert len(outside.instances(platform, "burst")) <= 200


async def test_quick_calls_do_not_start_an_instance_each(platform: Any) -> None:
    """The rule counts what is coming: 200 calls of no length are served by far fewer than 200 instances."""
    outside.deploy(platform, "quick", ECHO, memory=32, timeout=30, keep_alive=30, max_instances=200)
    answers = await burst(platform, "quick", 200, 0)
    assert all(answer.code == 200 for answer in answers)
    assert len(outside.instances(platform, "quick")) <= 100


async def test_1000_calls_never_exceed_max_instances(platform: Any) -> None:
    """`max_instances = 4` holds while 1,000 calls push: looked at all the time, and every call is answered."""
    outside.deploy(platform, "narrow", ECHO, memory=32, timeout=30, max_instances=4, max_queue=2000)
    seen: list[int] = []
    finished = asyncio.Event()

    async def watch() -> None:
        while not finished.is_set():
            seen.append(len(await asyncio.to_thread(outside.instances, platform, "narrow")))

    watcher = asyncio.create_task(watch())
    answers = await burst(platform, "narrow", 1000, 0.002)
    finished.set()
    await watcher
    assert [(answer.code, answer.body) for answer in answers] == [(200, b"%d" % n) for n in range(1000)]
    assert max(seen) <= 4
    assert sum(answer.headers["Mayfly-Start"] == "cold" for answer in answers) <= 4


async def test_async_handlers_share_an_instance_up_to_their_concurrency(platform: Any) -> None:
    """`concurrency = 10` for an async handler: ten calls at once need one instance, and overlap in it."""
    source = "import asyncio\n\nasync def handler(event, context):\n    await asyncio.sleep(0.3)\n    return event\n"
    outside.deploy(platform, "shared", source, concurrency=10, max_instances=1, timeout=30)
    async with outside.client(platform.nats) as connection:
        await outside.call(connection, "shared", b"0")
        loop = asyncio.get_running_loop()
        started = loop.time()
        answers = await asyncio.gather(*(outside.call(connection, "shared", b"%d" % n) for n in range(10)))
        took = loop.time() - started
    assert [answer.body for answer in answers] == [b"%d" % n for n in range(10)]
    assert took < 10 * 0.3, "the calls ran one after the other"
    assert len(outside.instances(platform, "shared")) == 1
