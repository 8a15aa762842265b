"""Least privilege, as two tables: who may publish to a subject, who may subscribe to it. Everybody else is refused.

The tables say in subjects what `mayfly_broker.roles` derives from flows; each cell is tried on a real server. The
operator may do everything and is left out.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from mayfly_broker.access import Access
from mayfly_broker.config import make_passwords
from mayfly_broker.roles import ROLES
from mayfly_broker.server import EmbeddedServer
from tests.conftest import Connect

SERVICES = {"gateway", "registry", "router", "activator", "worker", "scaler"}
RESTRICTED = sorted(SERVICES | {"client"})

PUBLISH: dict[str, set[str]] = {
    # what people type
    "fn.hello": {"client", "gateway", "registry", "worker"},  # a worker: on behalf of its functions
    "fn.billing.charge@2": {"client", "gateway", "registry", "worker"},
    "async.hello": {"client", "gateway"},
    "event.orders.created": {"client", "gateway", "router", "worker"},  # a router: to destinations
    "mayfly.api.function.deploy": {"gateway"},
    # what becomes of durable calls and events
    "mayfly.schedule.hello.A1": {"registry", "router"},
    "mayfly.due.hello": {"registry"},
    "dlq.hello": {"registry", "router"},
    "result.A1.hello": {"registry", "router"},
    "mayfly.settle.hello.EVENTS.hello_1.1.17.17.1.0": {"router", "worker"},
    "mayfly.keyed.hello.0": {"router", "worker"},
    "mayfly.cancel.hello": {"registry"},
    "$JS.ACK.EVENTS.hello_1.1.17.17.1.0": {"router"},
    "$JS.API.CONSUMER.MSG.NEXT.EVENTS.hello_1": {"router"},
    "$JS.API.CONSUMER.CREATE.EVENTS.hello_1": {"registry"},
    "$JS.API.CONSUMER.INFO.EVENTS.hello_1": {"registry", "router"},
    "$JS.API.CONSUMER.LIST.EVENTS": {"registry"},
    "$JS.API.CONSUMER.DELETE.EVENTS.hello_1": {"registry"},
    "$JS.API.CONSUMER.PAUSE.EVENTS.hello_1": {"registry"},
    "orders.created": set(),
    # what services say to each other
    "mayfly.activate": {"router"},
    "mayfly.node.n1.invoke": {"router"},
    "mayfly.node.n1.adopt": {"router"},
    "mayfly.node.n1.stop": {"router"},
    "mayfly.node.n1.start": {"activator"},
    "mayfly.node.n1.hold": {"router"},
    "mayfly.node.n1.drain": {"scaler"},
    "mayfly.node.n1.instances": {"gateway"},
    "mayfly.router.r1.done": {"worker"},
    "mayfly.router.r1.failed": {"worker"},
    "mayfly.router.r1.handover": {"router"},
    "mayfly.router.r1.ping": {"router"},
    "mayfly.router.r1.state": set(),
    "mayfly.load.node.n1": {"worker"},
    "mayfly.load.router.r1": {"router"},
    "mayfly.scaler.shares": {"scaler"},
    "mayfly.scaler.decision": {"scaler"},
    "mayfly.scaler.blocked": {"router"},
    "mayfly.local.nodes.add": {"scaler"},
    "mayfly.api.node.drain": {"gateway"},
    "metric.jobs": {"client", "worker"},
    "log.hello.i1": {"worker"},
    "usage.hello": {"worker"},
    # each key has its writers
    "$KV.functions.hello": {"registry"},
    "$KV.versions.hello.1": {"registry"},
    "$KV.numbers.hello": {"registry"},
    "$KV.routes.n1.1.hello": {"worker", "activator"},
    "$KV.nodes.n1": {"worker"},
    "$KV.routers.members": {"router"},
    "$KV.idempotency.hello.0": {"router"},
    "$KV.targets.function.hello": {"scaler"},
    "$KV.learned.hello": {"scaler"},
    "$KV.leases.scaler": {"scaler"},
    "$O.code.C.nuid": {"registry"},
    "$O.code.M.name": {"registry"},
    "$O.incoming.C.nuid": {"gateway"},
    "$O.incoming.M.name": {"gateway", "registry"},
    # what comes from the server only
    "mayfly.kv.routes.n1.1.hello": set(),
    "mayfly.sys.disconnect": set(),
    # reading by direct get: a batch, and the last message of a subject. The registry may ask any stream for a batch:
    # it reads the chunks of packages from buckets of the user's.
    "$JS.API.DIRECT.GET.KV_functions": {"gateway", "registry", "router", "scaler"},
    "$JS.API.DIRECT.GET.KV_functions.$KV.functions.hello": {"gateway", "registry", "router", "scaler"},
    "$JS.API.DIRECT.GET.KV_versions": SERVICES - {"activator"},
    "$JS.API.DIRECT.GET.KV_versions.$KV.versions.hello.1": SERVICES - {"activator"},
    "$JS.API.DIRECT.GET.KV_numbers": {"router", "registry"},
    "$JS.API.DIRECT.GET.KV_numbers.$KV.numbers.hello": {"registry"},
    "$JS.API.DIRECT.GET.KV_routes": {"registry", "router", "activator", "worker"},
    "$JS.API.DIRECT.GET.KV_routes.$KV.routes.n1.1.hello": {"router", "activator", "worker"},
    "$JS.API.DIRECT.GET.KV_targets": {"gateway", "registry", "router", "scaler"},
    "$JS.API.DIRECT.GET.KV_targets.$KV.targets.node.n1": {"gateway", "router", "scaler"},
    "$JS.API.DIRECT.GET.KV_learned": {"registry", "router", "scaler"},
    "$JS.API.DIRECT.GET.KV_leases": {"registry", "router", "scaler"},
    "$JS.API.DIRECT.GET.DECISIONS": {"gateway", "registry", "router"},
    "$JS.API.DIRECT.GET.KV_learned.$KV.learned.hello": {"scaler"},
    "$JS.API.DIRECT.GET.KV_leases.$KV.leases.scaler": {"scaler"},
    "$JS.API.DIRECT.GET.DECISIONS.mayfly.scaler.decision": {"gateway"},
    "$JS.API.DIRECT.GET.KV_nodes": SERVICES,
    "$JS.API.DIRECT.GET.KV_nodes.$KV.nodes.n1": SERVICES - {"registry"},
    "$JS.API.DIRECT.GET.KV_routers": {"registry", "router"},
    "$JS.API.DIRECT.GET.KV_routers.$KV.routers.members": {"router"},
    "$JS.API.DIRECT.GET.OBJ_code": {"router", "gateway", "registry", "worker"},
    "$JS.API.DIRECT.GET.OBJ_code.$O.code.M.name": {"gateway", "registry", "worker"},
    "$JS.API.DIRECT.GET.OBJ_incoming": {"router", "gateway", "registry"},
    "$JS.API.DIRECT.GET.OBJ_incoming.$O.incoming.M.name": {"gateway", "registry"},
    "$JS.API.DIRECT.GET.OBJ_anybody.$O.anybody.M.name": {"registry"},
    "$JS.API.DIRECT.GET.OBJ_anybody.$O.anybody.C.nuid": {"registry"},
    "$JS.API.DIRECT.GET.LOGS": {"router", "gateway", "registry"},
    "$JS.API.DIRECT.GET.LOGS.log.hello.i1": {"gateway"},
    "$JS.API.DIRECT.GET.USAGE": {"router", "registry"},
    "$JS.API.DIRECT.GET.RESULTS": {"gateway", "registry", "router"},
    "$JS.API.DIRECT.GET.USAGE.usage.hello": set(),
    "$JS.API.DIRECT.GET.KV_idempotency": {"registry", "router"},
    "$JS.API.DIRECT.GET.KV_idempotency.$KV.idempotency.hello.0": {"router"},
    "$JS.API.DIRECT.GET.ORDERS": {"registry", "router"},
    "$JS.API.DIRECT.GET.ORDERS.orders.created": set(),
    "$JS.API.DIRECT.GET.EVENTS.event.orders.created": {"registry"},
    "$JS.API.DIRECT.GET.ASYNC.async.hello": {"registry"},
    "$JS.API.DIRECT.GET.SCHEDULES.mayfly.schedule.hello.A1": {"registry"},
    "$JS.API.DIRECT.GET.RESULTS.result.A1.hello": {"gateway", "registry"},
    "$JS.API.DIRECT.GET.DLQ.dlq.hello": {"registry"},
    # administration
    "$JS.API.STREAM.PURGE.EVENTS": {"registry"},
    "$JS.API.STREAM.PURGE.ASYNC": {"registry"},
    "$JS.API.STREAM.PURGE.SCHEDULES": {"registry", "router"},
    "$JS.API.STREAM.PURGE.DLQ": {"registry"},
    "$JS.API.STREAM.INFO.EVENTS": {"registry"},
    "$JS.API.STREAM.INFO.ASYNC": {"registry"},
    "$JS.API.STREAM.INFO.SCHEDULES": {"registry"},
    "$JS.API.STREAM.INFO.DLQ": {"registry"},
    "$JS.API.STREAM.MSG.DELETE.ASYNC": {"registry", "router"},
    "$JS.API.STREAM.MSG.DELETE.DLQ": {"registry"},
    "$JS.API.STREAM.MSG.DELETE.EVENTS": set(),
    "$JS.API.STREAM.PURGE.OBJ_code": {"registry"},
    "$JS.API.STREAM.PURGE.OBJ_incoming": {"gateway", "registry"},
    "$JS.API.STREAM.PURGE.KV_functions": set(),
    "$JS.API.STREAM.CREATE.MINE": set(),
    "$JS.API.STREAM.UPDATE.KV_functions": set(),
    "$JS.API.STREAM.DELETE.KV_functions": set(),
    "$JS.API.STREAM.MSG.GET.KV_functions": set(),
    "$JS.API.STREAM.INFO.OBJ_code": {"registry"},
    "$JS.API.STREAM.INFO.KV_functions": set(),
    "$JS.API.STREAM.NAMES": set(),
    "$JS.API.CONSUMER.CREATE.KV_versions": set(),
    "$SYS.REQ.SERVER.PING": set(),
    "$SRV.PING": set(),
    # replies
    "_INBOX.caller.1": SERVICES,
    "_INBOX_operator.x.1": SERVICES,
    "_INBOX_client.x.1": {"router", "worker"},
    "_INBOX_gateway.x.1": {"registry", "router", "worker", "scaler"},
    "_INBOX_registry.x.1": {"router"},
    "_INBOX_router.x.1": {"router", "activator", "worker"},
    "_INBOX_activator.x.1": {"worker"},
    "_INBOX_worker.x.1": {"router", "worker"},  # a function's call of another
    "_INBOX_scaler.x.1": {"worker"},
    "_R_.caller.1": {"router", "worker"},
}

SUBSCRIBE: dict[str, set[str]] = {
    # calls: only in the queue group, so that nobody listens in
    "fn.hello router": {"router"},
    "fn.billing.charge@2 router": {"router"},
    "fn.hello": set(),
    "fn.hello mine": set(),
    "fn.>": set(),
    "async.>": set(),
    "event.>": set(),
    "mayfly.settle.hello.*.*.*.*.*.*.* router": {"router"},
    "mayfly.settle.>": set(),
    "mayfly.keyed.hello.* router": {"router"},
    "mayfly.keyed.>": set(),
    "mayfly.cancel.hello router": {"router"},
    "mayfly.cancel.>": set(),
    "dlq.>": set(),
    "sensors.> router.hello": set(),  # only what `access.toml` says
    "mayfly.api.function.deploy registry": {"registry"},
    "mayfly.api.function.deploy": set(),
    "mayfly.activate activator": {"activator"},
    "mayfly.activate": set(),
    # each one's own post
    "mayfly.node.n1.>": {"worker"},
    "mayfly.node.n1.invoke": {"worker"},
    "mayfly.router.r1.>": {"router"},
    "mayfly.load.node.*": {"router", "activator", "scaler", "gateway"},
    "mayfly.load.router.*": {"scaler", "gateway"},
    "mayfly.scaler.shares": {"router"},
    "mayfly.scaler.blocked": {"scaler"},
    "mayfly.scaler.decision": {"gateway"},
    "mayfly.api.node.drain scaler": {"scaler"},
    "mayfly.api.node.drain": set(),
    "metric.>": {"scaler"},
    "mayfly.sys.disconnect": {"router"},
    "log.>": {"gateway"},
    "log.hello.*": {"gateway"},
    "result.>": {"gateway"},
    "result.A1.>": {"gateway"},
    "usage.>": set(),
    # mirrors
    "mayfly.kv.functions.>": {"gateway", "router", "scaler"},
    "mayfly.kv.versions.>": {"gateway", "router", "scaler"},
    "mayfly.kv.routes.>": {"router", "activator"},
    "mayfly.kv.targets.>": {"gateway", "router", "scaler"},
    "mayfly.kv.nodes.>": SERVICES - {"registry"},
    "mayfly.kv.routers.>": {"router"},
    # service discovery
    "$SRV.PING": SERVICES,
    "$SRV.INFO.registry.id": SERVICES,
    # replies: one's own only
    "_INBOX.>": {"client"},
    "_INBOX_operator.>": set(),
    "_R_.>": set(),
    # everything at once
    ">": set(),
    "mayfly.>": set(),
    "mayfly.node.*.*.>": {"worker"},
    "$KV.>": set(),
    "$KV.routes.>": set(),
    "$O.>": set(),
    "$JS.>": set(),
    "$SYS.>": set(),
} | {f"_INBOX_{role}.>": {role} for role in RESTRICTED}


class Prober:
    """A bare connection, on which the server says at once what it refuses."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def may_publish(self, subject: str) -> bool:
        return await self.accepted(f"PUB {subject} 0\r\n\r\n")

    async def may_subscribe(self, subject_and_queue: str) -> bool:
        return await self.accepted(f"SUB {subject_and_queue} 1\r\nUNSUB 1\r\n")

    async def accepted(self, commands: str) -> bool:
        """Whether the server took the commands; those sent before it answers the PING."""
        self._writer.write(f"{commands}PING\r\n".encode())
        refused = False
        while (line := await self._reader.readline()) != b"PONG\r\n":
            assert line, "the server closed the connection"
            if line.startswith(b"-ERR"):
                assert b"Permissions Violation" in line, line
                refused = True
        return not refused


@asynccontextmanager
async def probing(server: EmbeddedServer, role: str | None) -> AsyncIterator[Prober]:
    """``role`` None: without credentials."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    options: dict[str, object] = {"verbose": False, "pedantic": False, "lang": "test", "version": "0"}
    if role is not None:
        options |= {"user": role, "pass": server.passwords[role]}
    prober = Prober(reader, writer)
    try:
        assert await prober.accepted(f"CONNECT {json.dumps(options)}\r\n")
        yield prober
    finally:
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize("role", RESTRICTED)
async def test_who_may_publish(server: EmbeddedServer, role: str) -> None:
    """A role publishes where its work needs it, and nowhere else."""
    async with probing(server, role) as prober:
        found = {subject for subject in PUBLISH if await prober.may_publish(subject)}
    assert found == {subject for subject, roles in PUBLISH.items() if role in roles}


@pytest.mark.parametrize("role", RESTRICTED)
async def test_who_may_subscribe(server: EmbeddedServer, role: str) -> None:
    """A role hears what is meant for it, in its queue group where there is one, and nothing else."""
    async with probing(server, role) as prober:
        found = {subject for subject in SUBSCRIBE if await prober.may_subscribe(subject)}
    assert found == {subject for subject, roles in SUBSCRIBE.items() if role in roles}


def test_the_tables_miss_no_permission() -> None:
    """Every subject that a role is granted is tried by a row: a grant cannot be added unseen."""
    for role in RESTRICTED:
        for kind, table in (("publish", PUBLISH), ("subscribe", SUBSCRIBE)):
            tried = [row for row, roles in table.items() if role in roles]
            for grant in getattr(ROLES[role], kind):
                assert any(_matches(grant, row) for row in tried), f"{role} may {kind} {grant}: no row tries it"


ACCESS = Access(
    trigger_subjects=("sensors.>",),
    publish_subjects=("alerts.>",),
    kv_buckets=("carts",),
    object_buckets=("uploads",),
)
GRANTED: dict[str, dict[str, set[str]]] = {
    "publish": {
        "alerts.fire": {"router", "worker"},
        "sensors.heat": set(),
        "$KV.carts.7": {"worker"},
        "$KV.others.7": set(),
        "$JS.API.DIRECT.GET.KV_carts.$KV.carts.7": {"worker"},
        "$O.uploads.C.nuid": {"worker"},
        "$JS.API.DIRECT.GET.OBJ_uploads.$O.uploads.M.name": {"registry", "worker"},
        "$JS.API.STREAM.PURGE.OBJ_uploads": {"worker"},
        "$JS.API.STREAM.PURGE.OBJ_others": set(),
    },
    "subscribe": {
        "sensors.heat router.hello": {"router"},
        "sensors.heat": set(),
        "alerts.> router.hello": set(),
    },
}


@pytest.mark.parametrize("role", RESTRICTED)
async def test_what_access_grants(tmp_path: Path, role: str) -> None:
    """What of the user's own functions may touch is what the setting says, for those who touch it on their behalf."""
    with EmbeddedServer(tmp_path, passwords=make_passwords(), access=ACCESS) as server:
        async with probing(server, role) as prober:
            publish = {subject for subject in GRANTED["publish"] if await prober.may_publish(subject)}
            subscribe = {subject for subject in GRANTED["subscribe"] if await prober.may_subscribe(subject)}
    assert publish == {subject for subject, roles in GRANTED["publish"].items() if role in roles}
    assert subscribe == {subject for subject, roles in GRANTED["subscribe"].items() if role in roles}


async def test_an_operator_may_do_everything(server: EmbeddedServer) -> None:
    """Permissions are never in the way of the operator's tools."""
    async with probing(server, "operator") as prober:
        for subject in SUBSCRIBE:
            assert await prober.may_subscribe(subject)
        assert await prober.may_publish("mayfly.node.n1.drain")


async def test_an_anonymous_connection_is_a_client(server: EmbeddedServer) -> None:
    """Who gives no credentials may call functions, and has no more rights than a client."""
    async with probing(server, None) as prober:
        assert {subject for subject in PUBLISH if await prober.may_publish(subject)} == {
            subject for subject, roles in PUBLISH.items() if "client" in roles
        }


async def test_a_reply_is_read_by_its_caller_only(connect: Connect) -> None:
    """The router answers a gateway's call; another role does not get the answer, whatever it subscribes to."""
    router, gateway, spy = await connect("router"), await connect("gateway"), await connect("worker")
    overheard: list[bytes] = []
    for subject in ("_INBOX_gateway.>", "_INBOX.>", "fn.hello", ">"):
        await spy.subscribe(subject, lambda subject, _reply, _headers, _payload: overheard.append(subject))
    await spy.flush()
    await router.subscribe(
        "fn.hello", lambda _subject, reply, _headers, _payload: router.publish(reply, b"secret"), queue="router"
    )
    await router.flush()
    assert (await gateway.request("fn.hello")).payload == b"secret"
    await spy.flush()
    assert overheard == []


async def test_a_refused_write_has_no_effect(connect: Connect) -> None:
    """What a client sends to a bucket or to the JetStream API changes nothing."""
    client, operator = await connect("client"), await connect("operator")
    client.publish("$KV.functions.hello", b"mine")
    client.publish("$JS.API.STREAM.DELETE.KV_functions")
    await client.flush()
    reply = await operator.request("$JS.API.STREAM.INFO.KV_functions")
    assert json.loads(reply.payload)["state"]["messages"] == 0


def _with_queue(row: str) -> tuple[str, str]:
    subject, _, queue = row.partition(" ")
    return subject, queue


def _matches(grant: str, row: str) -> bool:
    subject, queue = _with_queue(row)
    pattern, wanted_queue = _with_queue(grant)
    if queue != wanted_queue:
        return False
    theirs, ours = pattern.split("."), subject.split(".")
    for position, token in enumerate(theirs):
        if token == ">":
            return len(ours) > position
        if position >= len(ours) or token not in ("*", ours[position]):
            return False
    return len(theirs) == len(ours)
