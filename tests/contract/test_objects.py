"""An object store in a real nats-server, and that the NATS command line understands it."""

import asyncio
import hashlib
import os
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mayfly_broker.server import EmbeddedServer
from mayfly_chassis import jetstream
from mayfly_chassis.bus import Bus
from mayfly_chassis.errors import BusError, NoResponders, ObjectCorrupt, ObjectNotFound, ObjectTooLarge
from mayfly_chassis.objects import CHUNK_SIZE, ObjectStore
from mayfly_proto import storage, subjects
from tests.conftest import Connect


@pytest.fixture
async def operator(connect: Connect) -> Bus:
    return await connect("operator")


@pytest.fixture
def store(operator: Bus) -> ObjectStore:
    return ObjectStore(operator, storage.CODE)


async def pieces(data: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def messages(bus: Bus) -> int:
    info = await jetstream.api(bus, subjects.stream_info(subjects.object_stream(storage.CODE)))
    count = info["state"]["messages"]
    assert isinstance(count, int)
    return count


@pytest.mark.parametrize("size", [0, 1, CHUNK_SIZE, CHUNK_SIZE + 1, 12 * CHUNK_SIZE + 7, 40 * CHUNK_SIZE])
async def test_an_object_comes_back_whole(store: ObjectStore, size: int) -> None:
    """Every size, from nothing to more than one page of a read, at once or in pieces of any size."""
    data = os.urandom(size)
    info = await store.put("whole", data)
    assert await store.get("whole") == data
    assert info == await store.info("whole")
    assert (info.size, info.chunks) == (size, -(-size // CHUNK_SIZE))
    await store.put("pieces", pieces(data, 300_001))
    assert await store.get("pieces", limit=size) == data
    assert sorted(await store.names()) == ["pieces", "whole"]


async def test_a_new_object_replaces_the_old_one_and_its_chunks(store: ObjectStore, operator: Bus) -> None:
    """Nothing of the old one stays in the stream."""
    await store.put("a", bytes(3 * CHUNK_SIZE))
    await store.put("a", b"new")
    assert await store.get("a") == b"new"
    assert await messages(operator) == 2


async def test_an_upload_that_breaks_off_changes_nothing(store: ObjectStore, operator: Bus) -> None:
    """By error or by cancellation: the old object is still there, and no chunk of the new one."""
    await store.put("a", b"old")

    async def breaks() -> AsyncIterator[bytes]:
        yield bytes(12 * CHUNK_SIZE)
        raise RuntimeError("the caller has gone")

    async def stalls() -> AsyncIterator[bytes]:
        yield bytes(12 * CHUNK_SIZE)
        await asyncio.sleep(3600)

    with pytest.raises(RuntimeError):
        await store.put("a", breaks())
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(store.put("a", stalls()), 0.3)
    assert await store.get("a") == b"old"
    assert await messages(operator) == 2


async def test_a_deleted_object_is_not_found(store: ObjectStore, operator: Bus) -> None:
    """Nor is one that never was; it can be put again."""
    await store.put("a", bytes(CHUNK_SIZE))
    await store.delete("a")
    assert await store.info("a") is None
    assert await store.names() == []
    assert await messages(operator) == 1
    for operation in (store.get("a"), store.delete("a"), store.get("never")):
        with pytest.raises(ObjectNotFound):
            await operation
    await store.put("a", b"again")
    assert await store.get("a") == b"again"


async def test_an_object_above_the_limit_is_not_fetched(store: ObjectStore) -> None:
    """The reader says how much it takes."""
    await store.put("a", bytes(CHUNK_SIZE))
    with pytest.raises(ObjectTooLarge):
        await store.get("a", limit=CHUNK_SIZE - 1)


@pytest.mark.parametrize("harm", ["missing", "changed", "added"])
async def test_a_damaged_object_is_not_delivered(store: ObjectStore, operator: Bus, harm: str) -> None:
    """Code that is not what was deployed must never run: size and digest are checked."""
    info = await store.put("a", os.urandom(2 * CHUNK_SIZE))
    chunks = subjects.object_chunks(storage.CODE, info.nuid)
    if harm != "added":
        purge = subjects.stream_purge(subjects.object_stream(storage.CODE))
        await jetstream.api(operator, purge, {"filter": chunks, "keep": 1})
    if harm != "missing":
        await jetstream.publish(operator, chunks, bytes(CHUNK_SIZE))
    with pytest.raises(ObjectCorrupt):
        await store.get("a")


async def test_a_store_that_is_not_there_is_an_error_at_once(operator: Bus) -> None:
    """Not an empty store."""
    store = ObjectStore(operator, "nothing")
    with pytest.raises(NoResponders):
        await store.names()
    with pytest.raises(BusError):
        await store.put("a", b"x")


async def test_the_nats_command_reads_and_writes_the_same_objects(
    server: EmbeddedServer, store: ObjectStore, nats_cli: str, tmp_path: Path
) -> None:
    """``nats object get`` checks our digest, ``nats object put`` makes what we read, ``ls`` and ``del`` work."""
    access = [nats_cli, "--server", server.url, "--user", "operator", f"--password={server.passwords['operator']}"]

    def nats(*command: str) -> str:
        finished = subprocess.run([*access, "object", *command], capture_output=True, text=True, timeout=30)
        assert finished.returncode == 0, finished.stderr
        return finished.stdout + finished.stderr

    data = os.urandom(3 * CHUNK_SIZE + 5)
    name = hashlib.sha256(data).hexdigest()
    await store.put(name, data)
    file = tmp_path / "object"
    await asyncio.to_thread(nats, "get", storage.CODE, name, "--output", str(file), "--no-progress", "--force")
    assert file.read_bytes() == data
    await asyncio.to_thread(nats, "put", storage.CODE, str(file), "--name", "theirs", "--no-progress", "--force")
    assert await store.get("theirs") == data
    assert name in await asyncio.to_thread(nats, "ls", storage.CODE)
    await asyncio.to_thread(nats, "del", storage.CODE, "theirs", "--force")
    assert await store.names() == [name]
    await store.delete(name)
    assert name not in await asyncio.to_thread(nats, "ls", storage.CODE)
