"""What durable consumers cost nats-server: memory, a start, a stop. `python bench/consumers.py 2000 6000`

A function has one on ASYNC, one on SCHEDULES and one for each trigger, so 2,000 functions with one trigger have 6,000.
"""

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from mayfly_broker.bootstrap import bootstrap
from mayfly_broker.config import make_passwords
from mayfly_broker.roles import OPERATOR
from mayfly_broker.server import EmbeddedServer
from mayfly_chassis.bus import Bus
from mayfly_proto import storage, subjects

AT_ONCE = 64


async def add_consumers(server: EmbeddedServer, count: int) -> None:
    """As the registry makes them for event triggers."""
    bus = await Bus.connect(server.url, name="bench", role=OPERATOR, user=OPERATOR, password=server.passwords[OPERATOR])
    numbers = iter(range(count))

    async def add() -> None:
        for number in numbers:
            name = f"bench-{number}_t1"
            config = {
                "durable_name": name,
                "filter_subject": subjects.event(f"bench.{number}"),
                "ack_policy": "explicit",
                "ack_wait": 10_000_000_000,
                "max_ack_pending": 10_000,
            }
            request = json.dumps({"stream_name": storage.EVENTS, "config": config}).encode()
            reply = await bus.request(subjects.consumer_create(storage.EVENTS, name), request, timeout_s=60)
            assert b'"error"' not in reply.payload, reply.payload

    try:
        await bootstrap(bus)
        await asyncio.gather(*(add() for _ in range(AT_ONCE)))
    finally:
        await bus.close()


def measure(count: int, folder: Path) -> None:
    server = EmbeddedServer(folder, passwords=make_passwords())
    server.start()
    try:
        asyncio.run(add_consumers(server, 0))
        empty_mb = _resident_mb(server)
        made_s = _timed(lambda: asyncio.run(add_consumers(server, count)))
        full_mb = _resident_mb(server)
        stop_s = _timed(server.stop)
        start_s = _timed(server.start)
        started_mb = _resident_mb(server)
        server.kill()
        after_kill_s = _timed(server.start)
    finally:
        server.kill()
    print(
        f"{count} consumers: made in {made_s:.1f} s ({count / made_s:.0f}/s), "
        f"{(full_mb - empty_mb) / count * 1024:.0f} KB each ({(started_mb - empty_mb) / count * 1024:.0f} KB after a "
        f"restart), SIGTERM takes {stop_s:.1f} s, a start {start_s:.1f} s, a start after kill -9 {after_kill_s:.1f} s",
        flush=True,
    )


def _timed(do: Callable[[], object]) -> float:
    started = time.perf_counter()
    do()
    return time.perf_counter() - started


def _resident_mb(server: EmbeddedServer) -> float:
    return psutil.Process(server.pid).memory_info().rss / 2**20


def main() -> None:
    for count in map(int, sys.argv[1:] or ["2000", "6000"]):
        with tempfile.TemporaryDirectory(prefix="mayfly-bench-") as folder:
            measure(count, Path(folder))


if __name__ == "__main__":
    main()
