"""Mirrors of a bucket: always equal to it in the end, whatever was lost on the way."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from mayfly_broker.bootstrap import bootstrap
from mayfly_broker.server import EmbeddedServer
from mayfly_chassis import jetstream, mirror
from mayfly_chassis.bus import Bus
from mayfly_chassis.errors import BusError, RequestTimeout
from mayfly_chassis.kv import Bucket
from mayfly_chassis.mirror import Mirror
from mayfly_proto import storage, subjects
from tests.conftest import Connect, Eventually

Change = tuple[str, bytes | None]


class Watched:
    """A mirror, and what a service makes of its calls."""

    def __init__(self, bus: Bus, **options: Any) -> None:
        self.changes: list[Change] = []
        self.made: dict[str, bytes] = {}
        self.mirror = Mirror(bus, storage.NODES, self._changed, **options)

    def _changed(self, key: str, value: bytes | None) -> None:
        self.changes.append((key, value))
        if value is None:
            del self.made[key]
        else:
            self.made[key] = value

    def is_equal_to(self, values: dict[str, bytes]) -> bool:
        return dict(self.mirror.items()) == self.made == values


@pytest.fixture
async def bucket(connect: Connect) -> Bucket:
    return Bucket(await connect("operator"), storage.NODES)


@pytest.fixture
async def watch(connect: Connect) -> AsyncIterator[Callable[..., Awaitable[Watched]]]:
    async with AsyncExitStack() as stack:

        async def watch(**options: Any) -> Watched:
            watched = Watched(await connect("router"), **options)
            await watched.mirror.start()
            stack.push_async_callback(watched.mirror.stop)
            return watched

        yield watch


Watch = Callable[..., Awaitable[Watched]]


async def values(bucket: Bucket) -> dict[str, bytes]:
    return {key: entry.value for key, entry in (await bucket.load()).items()}


async def test_it_is_loaded_when_it_has_started(bucket: Bucket, watch: Watch) -> None:
    """All pages of it, one call for each entry, and none for what was deleted before."""
    await asyncio.gather(*(bucket.put(f"n{number}", b"%d" % number) for number in range(2500)))
    await bucket.delete("n0")
    watched = await watch()
    assert len(watched.changes) == len(watched.mirror) == 2499
    assert watched.is_equal_to(await values(bucket))
    assert "n0" not in watched.mirror
    assert watched.mirror.get("n1") == b"1"
    assert watched.mirror.revision("n0") == 0


async def test_part_of_a_bucket(bucket: Bucket, watch: Watch, eventually: Eventually) -> None:
    """Only keys below it, in snapshot and feed alike, and named without it: who wants some is told of no others."""
    for key in ("a.n1", "b.n1", "ab.n1", "a"):
        await bucket.put(key, b"before")
    watched = await watch(below="a.")
    assert watched.is_equal_to({"n1": b"before"})
    assert watched.mirror.revision("n1") == 1
    for key in ("b.n1", "ab.n2", "a.n1", "a.n.2"):
        await bucket.put(key, b"after")
    await bucket.delete("b.n1")
    await bucket.delete("a.n1")
    await eventually(lambda: watched.is_equal_to({"n.2": b"after"}))
    assert watched.changes == [("n1", b"before"), ("n1", b"after"), ("n.2", b"after"), ("n1", None)]


async def test_changes_are_seen_in_order(bucket: Bucket, watch: Watch, eventually: Eventually) -> None:
    """Put, overwritten, deleted, expired: one call for each, at once, with the revision that the writer got."""
    watched = await watch()
    await bucket.put("a", b"1")
    revision = await bucket.put("a", b"2")
    await eventually(lambda: watched.mirror.revision("a") == revision)
    await bucket.delete("a")
    await bucket.purge("a")
    await bucket.put("lease", b"3", ttl_s=1)
    await eventually(lambda: ("lease", None) in watched.changes)
    assert watched.changes == [("a", b"1"), ("a", b"2"), ("a", None), ("lease", b"3"), ("lease", None)]


async def test_a_callback_that_raises_does_not_spoil_the_mirror(
    connect: Connect, bucket: Bucket, eventually: Eventually
) -> None:
    """It is logged; the copy is right, and the next change is reported."""
    called: list[str] = []

    def callback(key: str, _value: bytes | None) -> None:
        called.append(key)
        raise RuntimeError("bug in a callback")

    await bucket.put("a", b"1")
    await bucket.put("b", b"2")
    copy = Mirror(await connect("router"), storage.NODES, callback)
    await copy.start()
    await bucket.put("c", b"3")
    await eventually(lambda: sorted(called) == ["a", "b", "c"])
    assert dict(copy.items()) == {"a": b"1", "b": b"2", "c": b"3"}
    await copy.stop()


async def test_what_changed_while_the_server_was_away_is_found(
    server: EmbeddedServer, bucket: Bucket, watch: Watch, eventually: Eventually
) -> None:
    """kill -9 and restart; a lease that ran out meanwhile is gone, and changes right after the restart are seen."""
    watched = await watch()
    await bucket.put("stays", b"1")
    await bucket.put("goes", b"1", ttl_s=1)
    await eventually(lambda: len(watched.made) == 2)
    server.kill()
    await eventually(lambda: not watched.mirror._bus.connected and not bucket._bus.connected)
    server.start()
    await eventually(lambda: bucket._bus.connected)
    await bucket.put("new", b"1")
    await bucket.put("stays", b"2")
    await eventually(lambda: watched.is_equal_to({"new": b"1", "stays": b"2"}), timeout_s=10)
    await bucket.put("live", b"3")
    await eventually(lambda: watched.mirror.get("live") == b"3")


async def test_what_the_feed_does_not_tell_is_found_by_the_next_snapshot(
    connect: Connect, bucket: Bucket, watch: Watch, eventually: Eventually
) -> None:
    """A stream purge is republished by nobody; a bucket made anew counts from 1 again. Both are reported as changes."""
    operator = await connect("operator")
    watched = await watch(snapshot_interval_s=0.1)
    for number in range(5):
        await bucket.put("a", b"%d" % number)
        await bucket.put(f"b{number}", b"x")
    await eventually(lambda: len(watched.made) == 6)
    purge = subjects.stream_purge(subjects.kv_stream(storage.NODES))
    await jetstream.api(operator, purge, {"filter": subjects.kv(storage.NODES, "b0")})
    await eventually(lambda: ("b0", None) in watched.changes)
    await jetstream.api(operator, f"$JS.API.STREAM.DELETE.{subjects.kv_stream(storage.NODES)}")
    await bootstrap(operator)
    await bucket.put("a", b"new")
    await eventually(lambda: watched.is_equal_to({"a": b"new"}))


async def test_it_waits_for_its_bucket_and_says_so_in_the_end(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service that starts before the buckets are there waits for them, but not for ever."""
    monkeypatch.setattr(mirror, "START_TIMEOUT_S", 0.2)
    missing = Mirror(await connect("operator"), "nothing")
    with pytest.raises(RequestTimeout, match="bucket nothing: not there after"):
        await missing.start()
    await missing.stop()


async def test_writers_and_restarts_leave_no_difference(
    server: EmbeddedServer, connect: Connect, watch: Watch, eventually: Eventually
) -> None:
    """Under four writers and three kill -9 of the server the mirror ends equal to the bucket, no key ever goes back to
    an older value, and whoever lives by its calls alone has the same picture."""
    watched = await watch()
    buckets = [Bucket(await connect("operator"), storage.NODES) for _ in range(4)]
    counts = [0] * len(buckets)
    stop = asyncio.Event()

    async def write(number: int) -> None:
        chance = random.Random(number)
        while not stop.is_set():
            counts[number] += 1
            key = f"n{number}.{chance.randrange(20)}"
            try:
                async with asyncio.timeout(1):
                    if chance.random() < 0.2:
                        await buckets[number].delete(key)
                    else:
                        await buckets[number].put(key, b"%d" % counts[number])
            except (BusError, TimeoutError):
                await asyncio.sleep(0.01)

    writers = [asyncio.create_task(write(number)) for number in range(len(buckets))]
    for _ in range(3):
        before = sum(counts)
        await eventually(lambda before=before: sum(counts) > before + 300, timeout_s=20)
        server.kill()
        server.start()
    stop.set()
    await asyncio.gather(*writers)
    await eventually(lambda: buckets[0]._bus.connected)
    expected = await values(buckets[0])
    await eventually(lambda: watched.is_equal_to(expected), timeout_s=10)
    assert len(expected) > 10
    newest: dict[str, int] = {}
    for key, value in watched.changes:
        if value is not None:
            assert int(value) > newest.get(key, 0)
            newest[key] = int(value)
