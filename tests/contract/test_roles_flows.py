"""What Mayfly's services do with each other, each in its own role: no permission is missing."""

import json

import pytest

from mayfly_broker.roles import ROLES
from mayfly_chassis.bus import Bus
from mayfly_chassis.kv import Bucket
from mayfly_chassis.mirror import Mirror
from mayfly_chassis.objects import ObjectStore
from mayfly_proto import api, storage, subjects
from tests.conftest import Connect, Eventually

SERVICES = [role for role in ROLES if role not in ("client", "operator")]


async def _answer(bus: Bus, subject: str, *, queue: str = "") -> None:
    """Have a service answer requests with its own subject."""

    def answer(subject: bytes, reply: bytes, _headers: bytes | None, _payload: bytes) -> None:
        bus.publish(reply, subject)

    await bus.subscribe(subject, answer, queue=queue)
    await bus.flush()


@pytest.mark.parametrize(
    ("caller", "service", "subject", "queue"),
    [
        ("gateway", "registry", subjects.api(api.FUNCTION, api.DEPLOY), subjects.REGISTRY_QUEUE),
        ("operator", "registry", subjects.api(api.FUNCTION, api.LIST), subjects.REGISTRY_QUEUE),
        ("gateway", "scaler", subjects.api(api.NODE, api.DRAIN), subjects.SCALER_QUEUE),
        ("scaler", "operator", subjects.local_nodes("add"), ""),
        ("client", "router", subjects.call("hello"), subjects.ROUTER_QUEUE),
        ("gateway", "router", subjects.call("hello", 2), subjects.ROUTER_QUEUE),
        ("registry", "router", subjects.call("hello", 2), subjects.ROUTER_QUEUE),
        ("operator", "router", subjects.call("hello"), subjects.ROUTER_QUEUE),
        ("router", "router", subjects.router_ping("r2"), ""),
        ("operator", "router", subjects.router_state("r1"), ""),
        ("router", "activator", subjects.ACTIVATE, subjects.ACTIVATOR_QUEUE),
        ("activator", "worker", subjects.node_start("n1"), ""),
        ("router", "worker", subjects.node_adopt("n1"), ""),
        ("scaler", "worker", subjects.node_drain("n1"), ""),
        ("gateway", "worker", subjects.node_instances("n1"), ""),
        ("operator", "worker", subjects.node_instances("n1"), ""),
        *(("operator", service, subjects.service_verb("PING"), "") for service in SERVICES),
    ],
)
async def test_requests_are_answered(connect: Connect, caller: str, service: str, subject: str, queue: str) -> None:
    """Who has to ask gets the answer."""
    await _answer(await connect(service), subject, queue=queue)
    assert (await (await connect(caller)).request(subject)).payload == subject.encode()


@pytest.mark.parametrize("caller", ["client", "gateway", "operator"])
async def test_a_result_goes_from_the_worker_to_the_caller(connect: Connect, caller: str) -> None:
    """The router passes the reply subject on; the worker, which the caller never spoke to, answers on it."""
    router, worker = await connect("router"), await connect("worker")

    def work(_subject: bytes, _reply: bytes, _headers: bytes | None, payload: bytes) -> None:
        worker.publish(payload, b"result")

    def forward(_subject: bytes, reply: bytes, _headers: bytes | None, _payload: bytes) -> None:
        router.publish(subjects.node_invoke("n1"), reply)

    await worker.subscribe(subjects.node_invoke("n1"), work)
    await worker.flush()
    await router.subscribe(subjects.call("hello"), forward, queue=subjects.ROUTER_QUEUE)
    await router.flush()
    assert (await (await connect(caller)).request(subjects.call("hello"))).payload == b"result"


@pytest.mark.parametrize(
    ("sender", "receiver", "subject"),
    [
        ("worker", "router", subjects.router_done("r1")),
        ("worker", "router", subjects.router_failed("r1")),
        ("router", "router", subjects.router_handover("r2")),
        ("router", "worker", subjects.node_stop("n1")),
        ("router", "worker", subjects.node_hold("n1")),
        ("router", "scaler", subjects.BLOCKED),
        ("scaler", "router", subjects.SHARES),
        ("scaler", "gateway", subjects.DECISIONS),
        ("client", "scaler", subjects.metric("jobs.waiting")),
        ("worker", "scaler", subjects.metric("jobs.waiting")),
        ("worker", "gateway", subjects.load_node("n1")),
        ("router", "gateway", subjects.load_router("r1")),
        ("worker", "router", subjects.load_node("n1")),
        ("worker", "activator", subjects.load_node("n1")),
        ("worker", "scaler", subjects.load_node("n1")),
        ("router", "scaler", subjects.load_router("r1")),
        ("worker", "gateway", subjects.log("billing.charge", "i1")),
    ],
)
async def test_messages_arrive(
    connect: Connect, eventually: Eventually, sender: str, receiver: str, subject: str
) -> None:
    """What is sent without an answer is heard by who needs it."""
    heard: list[bytes] = []
    receiving = await connect(receiver)
    await receiving.subscribe(subject, lambda _subject, _reply, _headers, payload: heard.append(payload))
    await receiving.flush()
    (await connect(sender)).publish(subject, b"news")
    await eventually(lambda: heard == [b"news"])


@pytest.mark.parametrize(
    ("bucket", "key", "writer", "mirrors"),
    [
        (storage.FUNCTIONS, "hello", "registry", ["gateway", "router", "scaler"]),
        (storage.VERSIONS, "hello.1", "registry", ["gateway", "router", "scaler"]),
        (storage.ROUTES, "n1.1.hello", "worker", ["router", "activator"]),
        (storage.ROUTES, "n1.1.hello", "activator", ["router", "activator"]),
        (storage.NODES, "n1", "worker", ["gateway", "router", "activator", "scaler"]),
        (storage.TARGETS, "function.hello", "scaler", ["gateway", "router", "scaler"]),
        (storage.ROUTERS, storage.ROUTER_MEMBERS_KEY, "router", ["router"]),
    ],
)
async def test_a_bucket_is_written_and_mirrored(
    connect: Connect, eventually: Eventually, bucket: str, key: str, writer: str, mirrors: list[str]
) -> None:
    """A writer creates, reads, replaces and deletes its key; everyone with a copy sees it all."""
    kv = Bucket(await connect(writer), bucket)
    await kv.create(key, b"1")
    copies = [Mirror(await connect(role), bucket) for role in mirrors]
    for copy in copies:
        await copy.start()
        assert copy.get(key) == b"1"
    entry = await kv.get(key)
    assert entry is not None
    await kv.update(key, b"2", entry.revision, ttl_s=10)
    await eventually(lambda: all(copy.get(key) == b"2" for copy in copies))
    assert list(await kv.load()) == [key]
    await kv.delete(key)
    await eventually(lambda: all(copy.get(key) is None for copy in copies))
    for copy in copies:
        await copy.stop()


async def test_a_worker_reads_what_it_runs(connect: Connect) -> None:
    """A worker gets a version's record and code, and hears of a newer worker of its name."""
    registry, worker = await connect("registry"), await connect("worker")
    await Bucket(registry, storage.VERSIONS).create("hello.1", b"spec")
    await ObjectStore(registry, storage.CODE).put("sha", b"code" * 300_000)
    entry = await Bucket(worker, storage.VERSIONS).get("hello.1")
    assert entry is not None
    assert entry.value == b"spec"
    assert await ObjectStore(worker, storage.CODE).get("sha") == b"code" * 300_000
    assert await ObjectStore(await connect("gateway"), storage.CODE).get("sha") == b"code" * 300_000


async def test_a_newer_worker_is_heard_of(connect: Connect, eventually: Eventually) -> None:
    """A worker hears when its own lease is taken over."""
    older, newer = await connect("worker"), await connect("worker")
    heard: list[bytes] = []
    await older.subscribe(
        subjects.kv_feed(storage.NODES) + "n1", lambda _subject, _reply, _headers, payload: heard.append(payload)
    )
    await older.flush()
    await Bucket(newer, storage.NODES).put("n1", b"mine", ttl_s=10)
    await eventually(lambda: heard == [b"mine"])


async def test_an_upload_goes_from_the_gateway_to_the_registry(connect: Connect) -> None:
    """The gateway puts an upload; the registry reads it and takes it away, and cleans up its own store."""
    incoming = ObjectStore(await connect("gateway"), storage.INCOMING)
    registry = await connect("registry")
    await incoming.put("upload", b"zip" * 300_000)
    theirs = ObjectStore(registry, storage.INCOMING)
    assert await theirs.get("upload") == b"zip" * 300_000
    await theirs.delete("upload")
    assert await incoming.info("upload") is None

    code = ObjectStore(registry, storage.CODE)
    await code.put("sha", b"code")
    await code.put("sha", b"code")
    assert await code.names() == ["sha"]
    info = json.loads((await registry.request(subjects.stream_info(subjects.object_stream(storage.CODE)))).payload)
    assert info["state"]["messages"] == 2
    await code.delete("sha")


async def test_the_registry_reads_a_bucket_of_the_users(connect: Connect) -> None:
    """`deploy --object BUCKET/NAME`: any bucket of the account can be read, none but ours written."""
    operator, registry = await connect("operator"), await connect("registry")
    stream = subjects.object_stream("builds")
    layout = [subjects.object_chunks("builds", ">"), subjects.object_meta("builds", ">")]
    config = {"name": stream, "subjects": layout, "allow_rollup_hdrs": True, "allow_direct": True}
    await operator.request(subjects.stream_create(stream), json.dumps(config).encode())
    await ObjectStore(operator, "builds").put("fn.zip", b"zip" * 300_000)
    assert await ObjectStore(registry, "builds").get("fn.zip") == b"zip" * 300_000


async def test_the_gateway_reads_past_log_lines(connect: Connect) -> None:
    """Log lines and usage records are stored, which the stream acknowledges; the gateway finds a function's lines."""
    worker, gateway = await connect("worker"), await connect("gateway")
    assert b"LOGS" in (await worker.request(subjects.log("hello", "i1"), b"{}")).payload
    assert b"USAGE" in (await worker.request(subjects.usage("hello"), b"{}")).payload
    request = json.dumps({"next_by_subj": subjects.logs_of("hello"), "seq": 1}).encode()
    assert (await gateway.request(subjects.direct_get(storage.LOGS), request)).payload == b"{}"
