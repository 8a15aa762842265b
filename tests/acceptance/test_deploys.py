"""New versions under load, and the promises that hold while parts of the platform are away."""

import asyncio
import json
from typing import Any

import pytest

from tests.acceptance import outside


def version(number: int) -> str:
    return f"import time\n\ndef handler(event, context):\n    time.sleep(0.01)\n    return {number}\n"


async def test_deploying_under_load_fails_no_call_and_old_instances_leave(platform: Any) -> None:
    """Calls go on while versions change: none fails, the last ones get the newest, the old instances go."""
    outside.deploy(platform, "rolling", version(1), memory=32, max_instances=4)
    finished = asyncio.Event()
    answers: list[outside.Answer] = []

    async with outside.client(platform.nats) as connection:

        async def caller() -> None:
            while not finished.is_set():
                answers.append(await outside.call(connection, "rolling"))

        callers = [asyncio.create_task(caller()) for _ in range(8)]
        for number in range(2, 7):
            await asyncio.to_thread(outside.deploy, platform, "rolling", version(number), memory=32, max_instances=4)
        newest = await outside.call(connection, "rolling")
        finished.set()
        await asyncio.gather(*callers)
    assert [answer.code for answer in answers if answer.code != 200] == []
    assert newest.body == b"6"
    assert {answer.body for answer in answers} <= {b"%d" % number for number in range(1, 7)}
    await outside.until(lambda: {row["version"] for row in outside.instances(platform, "rolling")} <= {6})

    platform.cli("rollback", "rolling", "2")
    async with outside.client(platform.nats) as connection:
        assert (await outside.call(connection, "rolling")).body == b"2"
        assert (await outside.call(connection, "rolling@5")).body == b"5"


@pytest.mark.timeout(180)
async def test_a_call_right_after_a_deploy_never_misses(platform: Any) -> None:
    """100 times: deploy, call at once, and it is that version that answers."""
    async with outside.client(platform.nats) as connection:
        for number in range(100):
            source = f"def handler(event, context):\n    return {number}\n"
            await asyncio.to_thread(outside.deploy, platform, f"at-once-{number % 4}", source, memory=32, keep_alive=1)
            answer = await outside.call(connection, f"at-once-{number % 4}")
            assert (answer.code, answer.body) == (200, b"%d" % number), number


async def test_code_is_read_back_as_uploaded_and_settings_change_without_it(platform: Any) -> None:
    """`describe` gives the code byte for byte; `config` makes a new version on the same package."""
    source = "def handler(event, context):\n    return context.memory_limit_in_mb  # \u00fc\n"
    outside.deploy(platform, "settings", source)
    assert outside.manage(platform, "GET", "functions/settings/code").body == source.encode()
    platform.cli("config", "settings", "--memory", "256")
    assert outside.manage(platform, "GET", "functions/settings/code").body == source.encode()
    async with outside.client(platform.nats) as connection:
        assert (await outside.call(connection, "settings")).body == b"256"
    rows = json.loads(platform.cli("versions", "settings", "-o", "json").stdout)
    assert sorted(row["version"] for row in rows) == [1, 2]


async def test_deleted_function_is_gone_everywhere(platform: Any) -> None:
    """After `rm` a call finds nobody, its instances leave, and the same name starts anew."""
    outside.deploy(platform, "fleeting", version(1))
    async with outside.client(platform.nats) as connection:
        assert (await outside.call(connection, "fleeting")).code == 200
        platform.cli("rm", "fleeting")
        await outside.until(lambda: outside.http_call(platform.http, "POST", "/function/fleeting").code == 404)
        await outside.until(lambda: not outside.instances(platform, "fleeting"))
        outside.deploy(platform, "fleeting", version(2))
        assert (await outside.call(connection, "fleeting")).body == b"2"


async def test_route_deleted_by_hand_is_not_used(platform: Any) -> None:
    """Capacity is learnt only from the Route Cache: a key that an operator deletes takes its instance out."""
    outside.deploy(platform, "unrouted", "def handler(event, context):\n    return context.invocation\n")
    async with (
        outside.client(platform.nats) as caller,
        outside.client(platform.nats, user=platform.user, password=platform.password) as operator,
    ):
        assert (await outside.call(caller, "unrouted")).headers["Mayfly-Start"] == "cold"
        (row,) = outside.instances(platform, "unrouted")
        routes = await operator.jetstream().key_value("routes")
        await routes.delete(f"{row['node']}.1.unrouted")
        assert (await outside.call(caller, "unrouted")).headers["Mayfly-Start"] == "cold"
        assert len(outside.instances(platform, "unrouted")) == 2
