"""A deploy or a delete that is cut short: nothing half-made is visible, and the rest is collected."""

import asyncio
import io
import os
import signal
import sys
import zipfile
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from mayfly_broker.server import EmbeddedServer
from mayfly_chassis import jetstream
from mayfly_chassis.bus import Bus
from mayfly_chassis.errors import BusError
from mayfly_chassis.objects import ObjectStore
from mayfly_proto import api, headers, storage, subjects
from mayfly_proto.records import VersionSpec
from mayfly_registry import changes, draft, package
from mayfly_registry.allowed import NOTHING
from mayfly_registry.config import RegistryConfig
from mayfly_registry.errors import Conflict
from mayfly_registry.publish import Probe, Publication, Step
from mayfly_registry.queries import Queries
from mayfly_registry.reconcile import Reconciler
from mayfly_registry.store import Store
from mayfly_registry.upkeep import Upkeep
from mayfly_registry.wiring import Wiring
from tests.conftest import Connect
from tests.integration.processes import end
from tests.integration.registry_driver import consumers, schedules

SOURCE = b"def handler(event, context):\n    return event\n"
GRACE_S = 300.0


@pytest.fixture
async def bus(connect: Connect) -> AsyncIterator[Bus]:
    """A connection with the registry's permissions, beside a router that answers every probe."""
    router = await connect("router")

    def probed(subject: bytes, reply: bytes, _raw: bytes | None, _payload: bytes) -> None:
        router.publish(reply, headers=headers.block({headers.VERSION: subject.rpartition(b"@")[2].decode()}))

    await router.subscribe(subjects.FUNCTIONS, probed, queue=subjects.ROUTER_QUEUE)
    await router.flush()
    yield await connect("registry")


def spec(memory: int = 128) -> VersionSpec:
    return draft.build("hello", package.read(SOURCE, "hello.py"), {"memory": memory}, NOTHING)


def publication(bus: Bus, store: Store, draft_: VersionSpec, patience_s: float = 60.0) -> Publication:
    return Publication(store, Wiring(bus), Probe(bus, 5.0), draft_, SOURCE, keep=50, patience_s=patience_s)


async def run_until(publication: Publication, last: Step | None) -> None:
    """Stop right after a step, as kill -9 would."""
    async with aclosing(publication.steps()) as steps:
        async for step in steps:
            if step is last:
                return


def verbs(bus: Bus, store: Store) -> changes.Changes:
    return changes.Changes(bus, store, Wiring(bus), RegistryConfig())


def soon() -> datetime:
    return datetime.now(UTC)


def later() -> datetime:
    return datetime.now(UTC) + timedelta(seconds=GRACE_S + 1)


async def leftovers(bus: Bus) -> tuple[int, int, int]:
    """Specs, objects, chunks in the store."""
    store = Store(bus)
    request = {"subjects_filter": subjects.object_chunks(storage.CODE, ">")}
    info = await jetstream.api(bus, subjects.stream_info(subjects.object_stream(storage.CODE)), request)
    return len(await store.specs()), len(await store.code.names()), len(info["state"].get("subjects") or ())


@pytest.mark.parametrize("last", [Step.STORED, Step.NUMBERED, Step.WRITTEN])
async def test_half_made_version_is_visible(bus: Bus, last: Step) -> None:
    """Stopped before it is published: not listed, left alone while it could be on its way, then collected."""
    store = Store(bus)
    await run_until(publication(bus, store, spec()), last)
    assert await Queries(store).functions() == []
    reconciler = Reconciler(bus, store, GRACE_S)
    before = await leftovers(bus)
    await reconciler.once(soon())
    assert await leftovers(bus) == before != (0, 0, 0)
    await reconciler.once(later())
    assert await leftovers(bus) == (0, 0, 0)


@pytest.mark.parametrize("last", [Step.STORED, Step.NUMBERED, Step.WRITTEN])
async def test_half_made_update_takes_the_old_version_away(bus: Bus, last: Step) -> None:
    """An update that is cut short leaves the current version as it was; the next deploy gets a number of its own."""
    store = Store(bus)
    await run_until(publication(bus, store, spec()), None)
    await run_until(publication(bus, store, spec(memory=256)), last)
    (row,) = await Queries(store).functions()
    assert (row.version, row.memory_mb) == (1, 128)
    assert [version.version for version in await Queries(store).versions(api.FunctionRequest(name="hello"))] == [1]
    await Reconciler(bus, store, GRACE_S).once(later())
    assert await leftovers(bus) == (1, 1, 1)
    third = publication(bus, store, spec(memory=512))
    await run_until(third, None)
    assert third.spec.version == (2 if last is Step.STORED else 3)
    assert (await Queries(store).code(api.FunctionRequest(name="hello"))).content == SOURCE


@pytest.mark.parametrize("last", [Step.PUBLISHED, Step.ROUTABLE])
async def test_published_version_is_collected(bus: Bus, last: Step) -> None:
    """Once published a version is whole, whoever dies after that."""
    store = Store(bus)
    await run_until(publication(bus, store, spec()), last)
    await Reconciler(bus, store, GRACE_S).once(later())
    assert await leftovers(bus) == (1, 1, 1)
    assert (await Queries(store).describe(api.FunctionRequest(name="hello"))).source == SOURCE.decode()


async def test_slow_deploy_publishes_what_was_collected(bus: Bus) -> None:
    """A deploy that outlasts its patience gives up: its parts may be gone by now."""
    with pytest.raises(Conflict, match="took too long to publish"):
        await run_until(publication(bus, Store(bus), spec(), patience_s=0.0), None)
    assert await Queries(Store(bus)).functions() == []


@pytest.mark.parametrize("moment", [Step.STORED, Step.NUMBERED, Step.WRITTEN])
async def test_delete_takes_the_code_of_a_running_deploy(bus: Bus, moment: Step) -> None:
    """A delete through another registry, in the middle of a deploy of the same bytes: what is published is whole."""
    store, other = Store(bus), Store(bus)
    await run_until(publication(bus, store, spec()), None)
    update = publication(bus, store, spec(memory=256))
    async for step in update.steps():
        if step is moment:
            await verbs(bus, other).delete(api.DeleteRequest(name="hello"))
    await Reconciler(bus, store, GRACE_S).once(later())
    description = await Queries(store).describe(api.FunctionRequest(name="hello"))
    assert (description.version, description.versions, description.memory_mb) == (2, [2], 256)
    assert description.source == SOURCE.decode()


async def test_configure_brings_a_deleted_function_back(bus: Bus) -> None:
    """A change that is based on a version which is no longer current is refused."""
    store = Store(bus)
    await run_until(publication(bus, store, spec()), None)
    with pytest.raises(Conflict, match="version 1 is no longer current"):
        async for step in publication(bus, store, spec(memory=256)).steps(based_on=1):
            if step is Step.WRITTEN:
                await verbs(bus, store).delete(api.DeleteRequest(name="hello"))
    assert await Queries(store).functions() == []


async def test_interrupted_delete_stays_half_done(bus: Bus) -> None:
    """A delete that died after its first step has deleted the function; the reconciler does the rest."""
    store = Store(bus)
    await run_until(publication(bus, store, spec()), None)
    await store.delete_record("hello")
    assert await Queries(store).functions() == []
    await Reconciler(bus, store, GRACE_S).once(later())
    assert await leftovers(bus) == (0, 0, 0)


async def test_pieces_of_an_upload_stay_for_ever(bus: Bus) -> None:
    """Chunks without metadata (a put that was killed) are purged; those of a put that is going on are not."""
    store = Store(bus)
    await run_until(publication(bus, store, spec()), None)
    await jetstream.publish(bus, subjects.object_chunks(storage.CODE, "KILLED"), b"piece")
    reconciler = Reconciler(bus, store, GRACE_S)
    await reconciler.once(soon())
    assert await leftovers(bus) == (1, 1, 2)
    await reconciler.once(later())
    assert await leftovers(bus) == (1, 1, 1)
    assert (await Queries(store).code(api.FunctionRequest(name="hello"))).content == SOURCE


async def test_unreadable_record_stops_everything(bus: Bus, connect: Connect) -> None:
    """A record that somebody broke by hand is passed over; everything else goes on."""
    store = Store(bus)
    await run_until(publication(bus, store, spec()), None)
    operator = await connect("operator")
    await run_until(publication(bus, store, msgspec.structs.replace(spec(), name="odd")), None)
    for key in (
        subjects.kv(storage.FUNCTIONS, "broken"),
        subjects.kv(storage.VERSIONS, "broken.1"),
        subjects.kv(storage.VERSIONS, "odd.1"),
    ):
        await jetstream.publish(operator, key, b"{")
    await Reconciler(bus, store, GRACE_S).once(later())
    assert [row.name for row in await Queries(store).functions()] == ["hello"]


def heavy(number: int) -> bytes:
    """A package that takes a while: different each time."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as writer:
        writer.writestr("main.py", SOURCE)
        writer.writestr("noise", os.urandom(4 << 20) + bytes([number]))
    return data.getvalue()


async def test_killed_registry_leaves_something_visible_broken(
    bus: Bus, connect: Connect, server: EmbeddedServer, tmp_path: Path
) -> None:
    """kill -9 in the middle of deploys, each time at another moment: what is listed is whole, the rest goes."""
    password = tmp_path / "password"
    password.write_text(server.passwords["registry"])
    environment = os.environ | {"MAYFLY_NATS_URL": server.url, "MAYFLY_NATS_PASSWORD_FILE": str(password)}
    gateway = await connect("gateway")
    packages = [heavy(number) for number in range(6)]
    for number, data in enumerate(packages):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "mayfly_registry", env=environment, stderr=asyncio.subprocess.DEVNULL
        )
        try:
            await deploy_and_kill(gateway, process, number, data)
        finally:
            await end(process)
    store = Store(bus)
    for row in await Queries(store).functions():
        data = await store.code.get((await store.spec(row.name, row.version)).package.sha256)
        assert data == packages[int(row.name.removeprefix("killed-"))]
    reconciler = Reconciler(bus, store, GRACE_S)
    await reconciler.once(soon())
    await reconciler.once(later())
    listed = {row.name for row in await Queries(store).functions()}
    assert await leftovers(bus) == (len(listed),) * 3
    await Upkeep(bus, store, Wiring(bus)).consumers_and_schedules(datetime.now(UTC))
    assert {info.function for info in (await consumers(bus)).values()} == listed
    assert len(await consumers(bus)) == 3 * len(listed)
    assert set(await schedules(bus)) == {subjects.schedule(name, "t2") for name in listed}


async def deploy_and_kill(gateway: Bus, process: asyncio.subprocess.Process, number: int, data: bytes) -> None:
    await ObjectStore(gateway, storage.INCOMING).put(f"upload-{number}", data)
    triggers = [{"event": f"killed.{number}.*"}, {"schedule": "@hourly"}]
    request = api.encode(
        api.DeployRequest(name=f"killed-{number}", object=f"incoming/upload-{number}", settings={"triggers": triggers})
    )
    subject = subjects.api(api.FUNCTION, api.DEPLOY)
    async with asyncio.timeout(20):
        while True:
            try:
                await gateway.request(subjects.api(api.FUNCTION, api.LIST))
                break
            except BusError:
                await asyncio.sleep(0.02)
    deploying = gateway.request_future(subject, request)
    await asyncio.wait([deploying], timeout=number * 0.02)
    process.send_signal(signal.SIGKILL)
    await process.wait()
    deploying.cancel()
