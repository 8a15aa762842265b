"""More than one node on a machine."""

import asyncio
from pathlib import Path

from tests.acceptance import outside
from tests.acceptance.conftest import running

SLEEPER = "import time\n\ndef handler(event, context):\n    time.sleep(1)\n    return event\n"


async def test_two_nodes_with_room_for_one_instance_each_get_one_each(tmp_path: Path) -> None:
    """A node that is full is passed over: two calls at once run on two nodes, and a third waits for a slot."""
    with running(tmp_path, "--nodes", "2", "--node-memory", "300") as platform:
        outside.deploy(platform, "large", SLEEPER, memory=200, timeout=10)
        async with outside.client(platform.nats) as connection:
            answers = await asyncio.gather(*(outside.call(connection, "large", b"%d" % n) for n in range(3)))
        assert [answer.body for answer in answers] == [b"0", b"1", b"2"]
        rows = outside.instances(platform, "large")
        assert sorted(row["node"] for row in rows) == ["n1", "n2"]
        names = [entry["name"] for entry in platform.services()]
        assert names.count("worker") == 2
