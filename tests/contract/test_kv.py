"""A KV bucket in a real nats-server."""

import asyncio

import nats
import pytest

from mayfly_broker.server import EmbeddedServer
from mayfly_chassis import jetstream
from mayfly_chassis.errors import KeyExists, NoResponders, TooMany, WrongRevision
from mayfly_chassis.kv import Bucket, Entry
from mayfly_proto import storage, subjects
from tests.conftest import Connect


@pytest.fixture
async def bucket(connect: Connect) -> Bucket:
    return Bucket(await connect("operator"), storage.NODES)


async def until_gone(bucket: Bucket, key: str) -> None:
    async with asyncio.timeout(5):
        while await bucket.get(key) is not None:
            await asyncio.sleep(0.02)


async def test_what_is_put_is_got_with_its_revision(bucket: Bucket) -> None:
    """A key that nobody wrote is None; revisions grow."""
    assert await bucket.get("n1") is None
    first = await bucket.put("n1", b"a")
    second = await bucket.put("n1", b"")
    assert await bucket.get("n1") == Entry(b"", second)
    assert second > first


async def test_a_key_is_created_once(bucket: Bucket) -> None:
    """Of many who create it at the same moment exactly one succeeds, and the others are told that it exists."""
    results = await asyncio.gather(
        *(bucket.create("n1", b"%d" % number) for number in range(20)), return_exceptions=True
    )
    assert sum(isinstance(result, int) for result in results) == 1
    assert sum(isinstance(result, KeyExists) for result in results) == 19


@pytest.mark.parametrize("how", ["delete", "purge"])
async def test_a_deleted_key_is_nothing_and_can_be_created_again(bucket: Bucket, how: str) -> None:
    """The tombstone is not an empty value, and does not count as the key."""
    await bucket.put("n1", b"a")
    await getattr(bucket, how)("n1")
    assert await bucket.get("n1") is None
    assert await bucket.load() == {}
    revision = await bucket.create("n1", b"b")
    assert await bucket.get("n1") == Entry(b"b", revision)
    with pytest.raises(KeyExists):
        await bucket.create("n1", b"c")


async def test_an_expired_key_is_nothing_and_can_be_created_again(bucket: Bucket) -> None:
    """The server's marker for an expired key is not a value, and does not stop the next lease."""
    await bucket.create("n1", b"a", ttl_s=1)
    await until_gone(bucket, "n1")
    stored = await jetstream.last(bucket._bus, subjects.kv_stream(bucket.name), subjects.kv(bucket.name, "n1"))
    assert stored is not None
    assert b"Nats-Marker-Reason" in stored.headers
    assert await bucket.load() == {}
    assert await bucket.create("n1", b"b", ttl_s=1) > stored.sequence


async def test_a_lease_that_is_renewed_does_not_expire(bucket: Bucket) -> None:
    """Each put with a TTL begins it anew; one without makes the key stay."""
    loop = asyncio.get_running_loop()
    await bucket.put("kept", b"a", ttl_s=1)
    await bucket.put("kept", b"b")
    began = loop.time()
    while loop.time() - began < 2.5:
        await bucket.put("n1", b"a", ttl_s=1)
        await asyncio.sleep(0.2)
        assert await bucket.get("n1") is not None
    assert (await bucket.load()).keys() == {"n1", "kept"}


async def test_an_update_replaces_exactly_that_revision(bucket: Bucket) -> None:
    """Compare and set: of two writers who read the same revision the second is refused, and nothing is written."""
    revision = await bucket.create("n1", b"a")
    newer = await bucket.update("n1", b"b", revision)
    with pytest.raises(WrongRevision):
        await bucket.update("n1", b"c", revision)
    assert await bucket.get("n1") == Entry(b"b", newer)


async def test_load_gives_everything_or_what_is_below_a_prefix(bucket: Bucket) -> None:
    """More keys than one page holds; a prefix is whole tokens."""
    await asyncio.gather(*(bucket.put(f"n{number % 2}.{number}", b"%d" % number) for number in range(2500)))
    everything = await bucket.load()
    assert {key: entry.value for key, entry in everything.items()} == {
        f"n{number % 2}.{number}": b"%d" % number for number in range(2500)
    }
    assert (await bucket.load("n1.")).keys() == {key for key in everything if key.startswith("n1.")}
    assert await bucket.load("n2.") == {}


async def test_a_bucket_that_is_not_there_is_an_error_at_once(connect: Connect) -> None:
    """Not an empty bucket, and not a timeout."""
    bucket = Bucket(await connect("operator"), "nothing")
    for operation in (bucket.get("a"), bucket.put("a", b""), bucket.load()):
        with pytest.raises(NoResponders):
            await operation


async def test_other_clients_understand_what_is_written(server: EmbeddedServer, bucket: Bucket) -> None:
    """nats-py's own KV reads our values and tombstones, and we read its."""
    client = await nats.connect(server.url, user="operator", password=server.passwords["operator"])
    theirs = await client.jetstream().key_value(bucket.name)
    await bucket.put("ours", b"a")
    await bucket.put("deleted", b"b")
    await bucket.delete("deleted")
    await theirs.put("theirs", b"c")
    assert (await theirs.get("ours")).value == b"a"
    assert set(await theirs.keys()) == {"ours", "theirs"}
    await theirs.delete("ours")
    assert {key: entry.value for key, entry in (await bucket.load()).items()} == {"theirs": b"c"}
    await client.close()


async def test_keys_stop_at_the_callers_limit(connect: Connect) -> None:
    """Those of a prefix, which need not end with a token; one too many is an error, not a part of them."""
    bucket = Bucket(await connect("operator"), storage.FUNCTIONS)
    for key in ("a.1", "a.12", "a.2", "b"):
        await bucket.put(key, b"x")
    await bucket.delete("a.2")
    assert await bucket.keys("a.1", limit=2) == await bucket.keys("a.", limit=2) == ["a.1", "a.12"]
    with pytest.raises(TooMany):
        await bucket.keys(limit=2)
