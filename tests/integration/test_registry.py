"""The registry on a real NATS server; a small subscriber stands for the router that answers its probe."""

import asyncio
import io
import os
import zipfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest

from mayfly_broker.server import EmbeddedServer
from mayfly_chassis import jetstream
from mayfly_chassis.bus import Bus
from mayfly_chassis.config import ConfigError, load
from mayfly_chassis.objects import ObjectStore
from mayfly_chassis.service import running
from mayfly_proto import api, headers, storage, subjects
from mayfly_proto.errors import CallError, ErrorType, from_reply
from mayfly_registry.app import app
from mayfly_registry.config import RegistryConfig
from mayfly_registry.reconcile import Reconciler
from mayfly_registry.store import Store
from tests.conftest import Connect

T = TypeVar("T")
Ask = Callable[..., Awaitable[Any]]
Start = Callable[..., Awaitable[None]]

HELLO = 'def handler(event, context):\n    return {"hello": event}  # ü\n'

REPLIES: dict[str, Any] = {
    api.DEPLOY: api.DeployReply,
    api.CONFIGURE: api.DeployReply,
    api.ROLLBACK: api.DeployReply,
    api.LIST: list[api.FunctionSummary],
    api.VERSIONS: list[api.VersionSummary],
    api.DESCRIBE: api.FunctionDescription,
    api.CODE: api.CodeReply,
    api.DELETE: api.DeleteReply,
    api.PAUSE: api.PauseReply,
    api.RESUME: api.PauseReply,
}


@pytest.fixture
async def router(connect: Connect) -> Bus:
    """Answers every probe, as the owner of all functions would."""
    bus = await connect("router")

    def probed(subject: bytes, reply: bytes, raw: bytes | None, _payload: bytes) -> None:
        assert raw is not None
        assert headers.find(raw, headers.PROBE.encode())
        version = subject.rpartition(b"@")[2].decode()
        bus.publish(reply, headers=headers.block({headers.VERSION: version}))

    await bus.subscribe(subjects.FUNCTIONS, probed, queue=subjects.ROUTER_QUEUE)
    await bus.flush()
    return bus


@pytest.fixture
async def start(server: EmbeddedServer, tmp_path: Path) -> AsyncIterator[Start]:
    """``await start()``: one more registry, in this process, with the registry's own permissions."""
    password = tmp_path / "password"
    password.write_text(server.passwords["registry"])
    async with AsyncExitStack() as stack:

        async def start(**settings: Any) -> None:
            config = RegistryConfig(nats_url=server.url, nats_password_file=password, **settings)
            await stack.enter_async_context(running("registry", app, config))

        yield start


@pytest.fixture
async def ask(connect: Connect) -> Ask:
    """``await ask(verb, field=...)``: a request as the gateway makes it; an error is raised as `CallError`."""
    bus = await connect("gateway")

    async def ask(verb: str, **request: Any) -> Any:
        payload = msgspec.json.encode(request)
        reply = await bus.request(subjects.api(api.FUNCTION, verb), payload, timeout_s=30)
        error = from_reply(reply.headers, reply.payload)
        if error is not None:
            raise error
        return api.decode(reply.payload, REPLIES[verb])

    return ask


def packed(**files: bytes | str) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as writer:
        for name, content in files.items():
            writer.writestr(name.replace("_", "."), content)
    return data.getvalue()


async def refused(answer: Awaitable[Any], kind: ErrorType) -> str:
    with pytest.raises(CallError) as error:
        await answer
    assert (error.value.kind, error.value.component) == (kind, "registry")
    return error.value.message


async def test_function_is_not_what_was_deployed(router: Bus, start: Start, ask: Ask) -> None:
    """Deployed from one file: listed, described with settings and source, code byte for byte."""
    await start()
    reply = await ask(api.DEPLOY, name="billing.hello", source=HELLO, filename="hello.py", settings={"memory": 64})
    assert (reply.version, reply.handler, reply.size) == (1, "hello:handler", len(HELLO.encode()))
    (row,) = await ask(api.LIST)
    assert (row.name, row.version, row.memory_mb, row.timeout_s) == ("billing.hello", 1, 64, 3.0)
    description = await ask(api.DESCRIBE, name="billing.hello")
    assert (description.source, description.files) == (HELLO, 1)
    assert (description.memory_mb, description.current, description.versions) == (64, 1, [1])
    code = await ask(api.CODE, name="billing.hello")
    assert (code.content, code.filename, code.format) == (HELLO.encode(), "hello.py", "py")


async def test_zip_is_not_kept_as_it_came(router: Bus, start: Start, ask: Ask, connect: Connect) -> None:
    """A ZIP put into `incoming`: its own settings, entries listed, bytes kept, the upload taken away."""
    await start()
    data = packed(main_py=HELLO, mayfly_toml="[functions.hello]\nmemory = 512\n")
    incoming = ObjectStore(await connect("gateway"), storage.INCOMING)
    await incoming.put("upload-1", data)
    reply = await ask(api.DEPLOY, name="hello", object="incoming/upload-1")
    assert reply.handler == "main:handler"
    description = await ask(api.DESCRIBE, name="hello")
    assert description.memory_mb == 512
    assert description.package.filename == "hello.zip"
    assert [entry.path for entry in description.entries] == ["main.py", "mayfly.toml"]
    assert (await ask(api.CODE, name="hello")).content == data
    assert await incoming.info("upload-1") is None


async def test_object_of_a_users_bucket_is_out_of_reach(router: Bus, start: Start, ask: Ask, connect: Connect) -> None:
    """`deploy --object BUCKET/NAME` takes a package from any bucket, slashes in its name or not, and leaves it."""
    await start()
    operator = await connect("operator")
    config = msgspec.json.decode(files("mayfly_broker").joinpath("buckets", "incoming.json").read_bytes())
    config |= {"name": "OBJ_files", "subjects": ["$O.files.C.>", "$O.files.M.>"]}
    await jetstream.api(operator, subjects.stream_create("OBJ_files"), config)
    mine = ObjectStore(operator, "files")
    await mine.put("build/7/hello.zip", packed(main_py=HELLO))
    assert (await ask(api.DEPLOY, name="hello", object="files/build/7/hello.zip")).version == 1
    assert await mine.info("build/7/hello.zip") is not None
    assert "has no object gone" in await refused(
        ask(api.DEPLOY, name="hello", object="files/gone"), ErrorType.BAD_REQUEST
    )
    assert "there is no bucket nowhere" in await refused(
        ask(api.DEPLOY, name="hello", object="nowhere/x"), ErrorType.BAD_REQUEST
    )


async def test_same_deploy_makes_another_version(router: Bus, start: Start, ask: Ask) -> None:
    """Same package, same settings: the current version is the answer; one of them differs: a new version."""
    await start()
    first = await ask(api.DEPLOY, name="hello", source=HELLO)
    again = await ask(api.DEPLOY, name="hello", source=HELLO, settings={"memory": 128})
    assert (again.version, again.unchanged, again.created) == (1, True, first.created)
    assert (await ask(api.DEPLOY, name="hello", source=HELLO, settings={"memory": 129})).version == 2
    assert (await ask(api.DEPLOY, name="hello", source=HELLO)).version == 3


async def test_configure_touches_the_code(router: Bus, start: Start, ask: Ask) -> None:
    """New settings: a new version on the same package; null: back to the default; checked like a deploy."""
    await start()
    await ask(api.DEPLOY, name="hello", source=HELLO, filename="mine.py", settings={"memory": 64, "env": {"A": "b"}})
    reply = await ask(api.CONFIGURE, name="hello", settings={"timeout": 9, "env": None})
    assert (reply.version, reply.handler) == (2, "mine:handler")
    description = await ask(api.DESCRIBE, name="hello")
    assert (description.memory_mb, description.timeout_s, description.env) == (64, 9, {})
    assert description.source == HELLO
    assert (await ask(api.CONFIGURE, name="hello", settings={"timeout": 9})).unchanged
    message = await refused(ask(api.CONFIGURE, name="hello", settings={"concurrency": 2}), ErrorType.BAD_REQUEST)
    assert message.startswith("concurrency: 2 calls at once need an async handler")


async def test_rollback_goes_nowhere(router: Bus, start: Start, ask: Ask) -> None:
    """Back to any version that is there; without a number to the one before; the newest stay listed."""
    await start()
    for memory in (64, 65, 66):
        await ask(api.DEPLOY, name="hello", source=HELLO, settings={"memory": memory})
    assert (await ask(api.ROLLBACK, name="hello")).version == 2
    assert (await ask(api.ROLLBACK, name="hello")).version == 1
    assert (await ask(api.DESCRIBE, name="hello")).memory_mb == 64
    rows = await ask(api.VERSIONS, name="hello")
    assert [(row.version, row.current, row.callable) for row in rows] == [
        (3, False, True),
        (2, False, True),
        (1, True, True),
    ]
    assert (await ask(api.ROLLBACK, name="hello", version=3)).version == 3
    assert "no version 9: it has 1, 2, 3" in await refused(
        ask(api.ROLLBACK, name="hello", version=9), ErrorType.NOT_FOUND
    )


async def test_number_comes_twice(router: Bus, start: Start, ask: Ask, connect: Connect) -> None:
    """Deleted with its code; deployed anew it goes on counting: caches by (name, version) stay true for ever."""
    await start()
    await ask(api.DEPLOY, name="hello", source=HELLO)
    sha256 = (await ask(api.DEPLOY, name="hello", source=HELLO, settings={"memory": 64})).sha256
    assert (await ask(api.DELETE, name="hello")).versions == 2
    assert await ask(api.LIST) == []
    assert await ObjectStore(await connect("gateway"), storage.CODE).info(sha256) is None
    assert (await ask(api.DEPLOY, name="hello", source=HELLO)).version == 3
    assert [row.version for row in await ask(api.VERSIONS, name="hello")] == [3]


async def test_code_that_another_function_shares_is_deleted(router: Bus, start: Start, ask: Ask) -> None:
    """Two functions from the same bytes share one object; it stays until the last of them is gone."""
    await start()
    await ask(api.DEPLOY, name="one", source=HELLO, filename="main.py")
    await ask(api.DEPLOY, name="two", source=HELLO, filename="main.py")
    await ask(api.DELETE, name="one")
    assert (await ask(api.CODE, name="two")).content == HELLO.encode()


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        ({"name": "Hello", "source": HELLO}, "function name 'Hello': must be 1 to 4 parts"),
        ({"name": "hello", "source": HELLO, "settings": {"memory": 1, "colour": 1}}, "memory: 1 is too small"),
        ({"name": "hello", "source": "def other(): ..."}, "handler: hello.py has no top-level name 'handler'"),
        ({"name": "hello", "source": HELLO, "filename": "../x.py"}, "filename '../x.py': must be letters"),
        ({"name": "hello"}, "exactly one of source and object must be given"),
        ({"name": "hello", "source": "", "object": "a/b"}, "exactly one of source and object must be given"),
        ({"name": "hello", "object": "no-slash"}, "object: 'no-slash' must be BUCKET/NAME"),
        ({"name": "hello", "object": "a.b/c"}, "object: 'a.b/c' must be BUCKET/NAME"),
        ({"name": "hello", "sauce": HELLO}, "Object contains unknown field `sauce`"),
        ({"source": HELLO}, "Object missing required field `name`"),
    ],
)
async def test_wrong_deploy_leaves_something(
    router: Bus, start: Start, ask: Ask, request_: dict[str, Any], sentence: str
) -> None:
    """A refused deploy says why, and nothing is listed."""
    await start()
    assert (await refused(ask(api.DEPLOY, **request_), ErrorType.BAD_REQUEST)).startswith(sentence)
    assert await ask(api.LIST) == []


@pytest.mark.parametrize("verb", [api.DESCRIBE, api.CODE, api.VERSIONS, api.ROLLBACK, api.DELETE])
async def test_unknown_function_is_an_internal_error(start: Start, ask: Ask, verb: str) -> None:
    """Whatever is asked about a function that is not there: 404, and it says so."""
    await start()
    assert await refused(ask(verb, name="nobody"), ErrorType.NOT_FOUND) == "there is no function nobody"


async def test_two_functions_take_one_path(router: Bus, start: Start, ask: Ask) -> None:
    """A path that is taken is refused: at deploy, at once by two, and when a rollback would bring it back."""
    await start()
    path = {"triggers": [{"http": "/orders/{id}", "methods": ["GET"]}]}
    await ask(api.DEPLOY, name="first", source=HELLO, settings=path)
    message = await refused(ask(api.DEPLOY, name="second", source=HELLO, settings=path), ErrorType.CONFLICT)
    assert message == "triggers: GET /orders/{id} is taken: function first has GET /orders/{id}"
    await ask(api.CONFIGURE, name="first", settings={"triggers": None})
    both = [ask(api.DEPLOY, name=name, source=HELLO, settings=path) for name in ("second", "third")]
    outcomes = await asyncio.gather(*both, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes].count(CallError) == 1
    assert "is taken" in await refused(ask(api.ROLLBACK, name="first"), ErrorType.CONFLICT)


async def test_more_is_promised_than_there_is(router: Bus, start: Start, ask: Ask) -> None:
    """Floors of all functions fit into 80 % of the capacity: at deploy, at once by two, and on the way back."""
    await start(capacity_mb=1000)
    floor = {"memory": 100, "reserved": 5, "max_instances": 5}
    await ask(api.DEPLOY, name="first", source=HELLO, settings=floor)
    both = [ask(api.DEPLOY, name=name, source=HELLO, settings=floor | {"reserved": 3}) for name in ("second", "third")]
    answers = await asyncio.gather(*both, return_exceptions=True)
    (error,) = (answer for answer in answers if isinstance(answer, CallError))
    assert error.kind is ErrorType.CONFLICT
    assert "is to have 300 MB" in error.message
    assert "other functions have 800 MB" in error.message
    assert len(await ask(api.LIST)) == 2
    await ask(api.CONFIGURE, name="first", settings={"reserved": None})
    await ask(api.DEPLOY, name="fourth", source=HELLO, settings={"memory": 500, "min_instances": 1})
    assert "first is to have" in await refused(ask(api.ROLLBACK, name="first"), ErrorType.CONFLICT)


async def test_deploy_ends_before_it_can_be_called(start: Start, ask: Ask) -> None:
    """With no router to answer: 503 that says so, in bounded time, and the version is published."""
    await start(probe_timeout_s=0.2)
    message = await refused(ask(api.DEPLOY, name="hello", source=HELLO), ErrorType.UNAVAILABLE)
    assert message.startswith("version 1 of hello is published, but no router has answered for it within 0.2 s")
    assert [row.version for row in await ask(api.LIST)] == [1]


async def test_two_registries_give_one_number_twice(router: Bus, start: Start, ask: Ask) -> None:
    """Deploys of one name through two registries at once: a version each, and the highest is current."""
    await start()
    await start()
    replies = await asyncio.gather(
        *(ask(api.DEPLOY, name="hello", source=HELLO, settings={"memory": 64 + number}) for number in range(16))
    )
    assert sorted(reply.version for reply in replies) == list(range(1, 17))
    rows = await ask(api.VERSIONS, name="hello")
    assert [row.version for row in rows] == list(range(16, 0, -1))
    assert [row.version for row in rows if row.current] == [16]
    assert [row.version for row in rows if row.callable] == list(range(16, 6, -1))
    by_version = {reply.version: index for index, reply in enumerate(replies)}
    assert (await ask(api.DESCRIBE, name="hello")).memory_mb == 64 + by_version[16]


async def test_two_configures_at_once_lose_one(router: Bus, start: Start, ask: Ask) -> None:
    """Two changes from the same version: both are in the end, or the later one is told to look again."""
    await start()
    await ask(api.DEPLOY, name="hello", source=HELLO)
    changes: list[dict[str, Any]] = [{"memory": 64}, {"timeout": 7}]
    outcomes = await asyncio.gather(
        *(ask(api.CONFIGURE, name="hello", settings=change) for change in changes), return_exceptions=True
    )
    description = await ask(api.DESCRIBE, name="hello")
    done = [index for index, outcome in enumerate(outcomes) if isinstance(outcome, api.DeployReply)]
    assert done
    assert (description.memory_mb == 64) is (0 in done)
    assert (description.timeout_s == 7) is (1 in done)


async def test_old_versions_fill_the_store(router: Bus, start: Start, ask: Ask, connect: Connect) -> None:
    """More than `keep_versions`: the oldest are let go, never one that can be called."""
    await start(keep_versions=12)
    for number in range(15):
        await ask(api.DEPLOY, name="hello", source=HELLO, settings={"memory": 64 + number})
    bus = await connect("registry")
    await Reconciler(bus, Store(bus), grace_s=300).once(datetime.now(UTC) + timedelta(minutes=6))
    assert len(await Store(bus).specs()) == 12
    assert [row.version for row in await ask(api.VERSIONS, name="hello")] == list(range(15, 3, -1))
    assert "no version 3: it has 4 to 15" in await refused(
        ask(api.ROLLBACK, name="hello", version=3), ErrorType.NOT_FOUND
    )
    assert (await ask(api.ROLLBACK, name="hello", version=4)).version == 4


async def test_largest_package_takes_for_ever(router: Bus, start: Start, ask: Ask, connect: Connect) -> None:
    """50 MB are deployed in seconds and read back from the object that `code` names."""
    await start()
    room = (50 << 20) - 4096
    data = await asyncio.to_thread(packed, main_py=HELLO, noise_bin=os.urandom(room))
    gateway = await connect("gateway")
    await ObjectStore(gateway, storage.INCOMING).put("large", data)
    async with asyncio.timeout(15):
        reply = await ask(api.DEPLOY, name="large", object="incoming/large")
    assert reply.size == len(data) > room
    code = await ask(api.CODE, name="large")
    assert (code.content, code.bucket) == (None, storage.CODE)
    assert await ObjectStore(gateway, code.bucket).get(code.object) == data
    await ObjectStore(gateway, storage.INCOMING).put("larger", bytes((50 << 20) + 1))
    await refused(ask(api.DEPLOY, name="large", object="incoming/larger"), ErrorType.TOO_LARGE)


async def test_registry_cannot_be_found_by_the_nats_command(start: Start, connect: Connect) -> None:
    """`nats micro info registry` shows every verb."""
    await start()
    operator = await connect("operator")
    reply = await operator.request(subjects.service_verb("INFO", "registry"))
    endpoints = msgspec.json.decode(reply.payload)["endpoints"]
    assert {endpoint["name"] for endpoint in endpoints} >= {*api.VERBS, "schedule-list"}


async def test_stop_hangs_in_the_middle_of_reconciling(server: EmbeddedServer, tmp_path: Path) -> None:
    """Told to stop at any moment of its background work, the registry stops."""
    password = tmp_path / "password"
    password.write_text(server.passwords["registry"])
    config = RegistryConfig(nats_url=server.url, nats_password_file=password)
    for moment in range(30):
        async with asyncio.timeout(5), running("registry", app, config):
            await asyncio.sleep(moment * 0.0003)


async def test_verbs_of_events_are_not_offered(router: Bus, start: Start, ask: Ask, connect: Connect) -> None:
    """Pause, resume and the timetable over the API; a call to an unknown name is swept up by the service itself."""
    await start(sweep_every_s=0.05)
    triggers = [{"event": "a.*"}, {"schedule": "@daily", "timezone": "Europe/Amsterdam"}]
    await ask(api.DEPLOY, name="hello", source=HELLO, settings={"triggers": triggers})
    (row,) = await ask(api.LIST)
    assert row.triggers == "event a.*, schedule @daily Europe/Amsterdam"
    assert (await ask(api.PAUSE, name="hello")).paused
    assert not (await ask(api.RESUME, name="hello")).paused
    assert "no function nobody" in await refused(ask(api.PAUSE, name="nobody"), ErrorType.NOT_FOUND)
    gateway = await connect("gateway")
    reply = await gateway.request(subjects.api(api.SCHEDULE, api.LIST), b'{"count": 1}')
    (schedule,) = api.decode(reply.payload, list[api.Schedule])
    assert (schedule.function, schedule.number, len(schedule.next)) == ("hello", 2, 1)
    await jetstream.publish(gateway, subjects.async_call("nobody"), b"lost?")
    async with asyncio.timeout(5):
        while await jetstream.last(await connect("registry"), storage.DLQ, subjects.dead_letter("nobody")) is None:
            await asyncio.sleep(0.02)


async def test_access_file_is_not_read(router: Bus, start: Start, ask: Ask, tmp_path: Path) -> None:
    """What `MAYFLY_REGISTRY_ACCESS_FILE` grants can be deployed; a wrong file stops the registry at its start."""
    file = tmp_path / "access.toml"
    file.write_text('publish_subjects = ["alerts.>"]')
    await start(access_file=file)
    await ask(api.DEPLOY, name="hello", source=HELLO, settings={"publish": ["alerts.x"]})
    sentence = await refused(
        ask(api.DEPLOY, name="other", source=HELLO, settings={"publish": ["stocks.x"]}), ErrorType.BAD_REQUEST
    )
    assert "publish_subjects in access.toml" in sentence
    file.write_text('publish_subjects = ["fn.>"]')
    for wrong in (file, tmp_path / "nothing"):
        with pytest.raises(ConfigError, match=rf"MAYFLY_REGISTRY_ACCESS_FILE={wrong}"):
            load(RegistryConfig, "registry", {"MAYFLY_REGISTRY_ACCESS_FILE": str(wrong)})
