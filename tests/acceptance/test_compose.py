"""compose.yaml on a real Docker engine: what it starts, what its parts may do, and what it survives."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest

from mayfly_broker.roles import ROLES
from mayfly_chassis.bus import Bus
from mayfly_chassis.errors import Unauthorized, Untrusted
from mayfly_chassis.history import History
from mayfly_chassis.kv import Bucket
from mayfly_proto import records, storage, subjects
from tests.acceptance.compose_cluster import IMAGE, PROJECT, SCALING_SECTION, Cluster, Load, typed_in_docs
from tests.acceptance.docker_engine import Engine, Starts
from tests.acceptance.outside import manage

pytestmark = pytest.mark.timeout(400)

UPGRADED = ("registry", "activator", "scaler-1", "scaler-2", "router-1", "router-2", "worker-1", "worker-2")

DENIED, REFUSED = b"PermissionError", b"ConnectionRefusedError"  # by the kernel, and because nobody listens there

ECHO = """
import os, time

def handler(event, context):
    time.sleep(0.05)
    return {"got": event, "uid": os.getuid(), "node": os.environ.get("MAYFLY_INSTANCE")}
"""

REACH = """
import socket

def handler(event, context):
    try:
        socket.create_connection(tuple(event), timeout=3).close()
    except OSError as error:
        return type(error).__name__
    return "reached"
"""

BUSY = """
import os, time

def handler(event, context):
    time.sleep(0.5)
    return os.environ["MAYFLY_INSTANCE"]
"""
NODE_MB = 2048  # of each node, by hand or added
WIDE_MB, STEADY_MB = 1100, 320  # of which one fits on a node, and two beside that one

SEEN = """
def handler(event, context):
    context.publish("event.seen", context.invocation)
"""


@pytest.fixture(scope="module")
def cluster(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(engine, tmp_path_factory.mktemp("compose")) as cluster:
        cluster.deploy("echo", ECHO, idempotent=True, timeout=10)
        yield cluster


@pytest.fixture(scope="module")
def scaling(cluster: Cluster) -> Cluster:
    """With compose.scaling.yaml, and functions that together do not fit on the two nodes of compose.yaml."""
    cluster.scale(window_s=6, after_out_s=5, between_in_s=1, tick_s=1)
    cluster.deploy("wide", BUSY, memory=WIDE_MB, max_instances=3, keep_alive=5, timeout=20)
    cluster.deploy("steady", BUSY, memory=STEADY_MB, max_instances=5, keep_alive=5, timeout=20)
    return cluster


def test_streams_are_on_three_servers(cluster: Cluster) -> None:
    """Bootstrap has used the whole cluster, so that any one of them may go."""
    assert cluster.on_nats(events)["config"]["num_replicas"] == 3


async def events(bus: Bus) -> Any:
    """What the server says of the stream."""
    return json.loads((await bus.request(subjects.stream_info(storage.EVENTS))).payload)


def test_no_secret_is_where_others_look(cluster: Cluster) -> None:
    """Not in the image, nor in what the engine keeps of it and of the containers, nor in any process's command line."""
    image = cluster.engine.docker("inspect", IMAGE) + cluster.engine.docker("history", "--no-trunc", IMAGE)
    commands = "\n".join(cluster.engine.commands())
    assert "nats-server" in commands
    places = (image, json.dumps(cluster.containers()), commands)
    for name in (*ROLES, "cluster", "token"):
        for where in places:
            assert cluster.secret(name) not in where, name


def test_nobody_is_root_but_the_worker(cluster: Cluster) -> None:
    """A service runs as a user without any right; a function as a user of its own, whom no other function has."""
    for container in cluster.containers():
        service = container["Config"]["Labels"]["com.docker.compose.service"]
        if container["State"]["Running"] and not service.startswith("worker"):
            status = cluster.engine.docker("exec", container["Id"], "cat", "/proc/1/status")
            fields = dict(line.split(":\t", 1) for line in status.splitlines())
            assert set(fields["Uid"].split()) == {"1000"}, service
            assert int(fields["CapEff"], 16) == int(fields["CapBnd"], 16) == 0, service
            assert fields["NoNewPrivs"] == "1", service
    assert json.loads(cluster.call("/function/echo").body)["uid"] >= 200_000


def test_workers_give_all_they_can(cluster: Cluster) -> None:
    """With what compose.yaml adds for them, no worker lacks a means of keeping functions apart but what the kernel has
    not."""
    said = cluster.compose("logs", "--no-color", "worker-1", "worker-2")
    assert said.count("service.ready") >= 2
    missing = [line for line in said.splitlines() if "isolation.limited" in line and "Landlock ABI" not in line]
    assert missing == []


@pytest.mark.parametrize(("port", "without_limits"), [(4222, b"reached"), (6222, b"reached"), (8222, REFUSED)])
def test_functions_do_not_reach_the_servers(cluster: Cluster, port: int, without_limits: bytes) -> None:
    """Neither as clients, nor as servers, and no manifest can ask for it. Where the kernel limits no ports a password
    is between them; what is monitored is on the server's own loopback and never reached."""
    cluster.deploy("reach", REACH, timeout=10)
    answer = cluster.call("/function/reach", json.dumps(["nats-1", port]).encode())
    limited = "TCP ports are not limited" not in cluster.compose("logs", "--no-color", "worker-1")
    assert answer.body == (DENIED if limited else without_limits)
    with pytest.raises(AssertionError, match=str(port)):
        cluster.deploy("reach", REACH, connect=[port])


@pytest.mark.parametrize(
    ("authority", "password", "error"),
    [("ca.crt", "operator", None), (None, "operator", Untrusted), ("ca.crt", "client", Unauthorized)],
)
def test_nats_lets_in_who_knows_authority_and_password(
    cluster: Cluster, authority: str | None, password: str, error: type[Exception] | None
) -> None:
    """From this machine as from the services: no password to who is not known, no entry without the right one."""
    ca_file = None if authority is None else cluster.folder / "secrets" / authority

    async def connect() -> None:
        secret = cluster.secret(password)
        bus = await Bus.connect(
            cluster.nats, name="test", role="operator", user="operator", password=secret, ca_file=ca_file
        )
        await bus.close()

    with nullcontext() if error is None else pytest.raises(error):
        cluster.engine.inside(lambda: asyncio.run(connect()))


def test_calls_go_on_when_a_worker_is_killed(cluster: Cluster) -> None:
    """kill -9 of a node with calls in it: they run on the other one, and the container comes back by itself."""
    with Load(cluster, "/function/echo") as load:
        load.wait_for_more(20)
        cluster.engine.kill(cluster.container("worker-1"))
        load.wait_for_more(40)
    assert load.failed() == []
    cluster.wait(lambda: not cluster.unwell(), cluster.describe)
    cluster.wait(lambda: {node["node"] for node in cluster.manage("GET", "nodes")} == {"n1", "n2"})


def test_no_event_is_lost_when_a_nats_server_is_killed(cluster: Cluster) -> None:
    """kill -9 of the one of three that leads the stream: what was answered 202 has run, events and calls are taken
    again, and the server comes back by itself."""
    # It publishes itself, which fails as long as the stream has no leader: as often as that takes.
    retries = {"attempts": 100, "max_backoff": 2}
    cluster.deploy("seen", SEEN, publish=["event.seen"], triggers=[{"event": "compose.>"}], retries=retries)
    leader = cluster.on_nats(events)["cluster"]["leader"]
    with Load(cluster, "/event/compose/numbers") as load:
        load.wait_for_more(50)
        cluster.engine.kill(cluster.container(leader))
        load.wait_for_more(100)
    assert load.failed() == []
    stored = {json.loads(answer.body)["id"] for answer in load.answers if answer.code == 202}
    assert len(stored) >= 100
    cluster.wait(lambda: stored <= seen(cluster), lambda: (stored - seen(cluster), cluster.manage("GET", "dlq")))
    assert cluster.call("/function/echo").code == 200
    cluster.wait(lambda: not cluster.unwell(), cluster.describe)
    assert cluster.call("/function/echo").code == 200


def seen(cluster: Cluster) -> set[str]:
    """Events that the function has been called with."""

    async def read(bus: Bus) -> list[str]:
        history = History(bus, storage.EVENTS, subjects.event("seen"))
        return await history.page(1, 10_000, lambda stored: stored.payload.decode())

    return set(cluster.on_nats(read))


def test_no_call_fails_when_one_after_the_other_is_restarted(cluster: Cluster) -> None:
    """As an upgrade does it, in the order of docs/machines.md: of what runs twice, the other one goes on meanwhile."""
    cluster.deploy("once", ECHO, timeout=10)  # not idempotent: a call that is lost is an error
    for service in UPGRADED:
        with Load(cluster, "/function/once") as load:
            load.wait_for_more(10)
            cluster.compose("restart", "--timeout", "75", service)
            cluster.wait(lambda: not cluster.unwell(), cluster.describe)
            load.wait_for_more(10)
        assert load.failed() == [], service


def added(cluster: Cluster) -> list[str]:
    """Containers of nodes that a scaler has made."""
    return cluster.engine.docker("ps", "--all", "--quiet", "--filter", "label=mayfly-node").split()


def inspect(cluster: Cluster, *containers: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(cluster.engine.docker("inspect", *containers))
    return found


def serving(cluster: Cluster, function: str) -> set[str]:
    """Nodes on which an instance of it has been called."""
    rows = cluster.manage("GET", "instances")
    return {row["node"] for row in rows if row["function"] == function and row["calls"]}


def nodes(cluster: Cluster) -> set[str]:
    return {node["node"] for node in cluster.manage("GET", "nodes")}


def made_of(container: dict[str, Any]) -> dict[str, Any]:
    """All that compose.yaml says of a worker; not what differs between any two of them."""
    config, host = container["Config"], container["HostConfig"]
    environment = dict(each.split("=", 1) for each in config["Env"])
    del environment["MAYFLY_WORKER_NODE"]
    return {
        "environment": environment,
        **{name: config[name] for name in ("Cmd", "User", "Image", "Healthcheck", "StopTimeout")},
        **{name: host[name] for name in ("ReadonlyRootfs", "Tmpfs", "LogConfig")},
        **{name: set(host[name]) for name in ("CapDrop", "CapAdd", "SecurityOpt")},
        "mounts": {(each["Destination"], each["Type"], each["RW"]) for each in container["Mounts"]},
        "secrets": {each["Source"] for each in container["Mounts"] if each["Type"] == "bind"},
        "networks": set(container["NetworkSettings"]["Networks"]),
    }


def test_load_brings_a_worker_and_takes_it_away(scaling: Cluster) -> None:
    """What does not fit on two nodes has the scaler add a container, which joins as any worker and runs calls; when the
    load is less it is drained, while it runs calls still, and goes by itself. Not one call fails."""
    with Load(scaling, "/function/wide") as wide:
        scaling.wait(lambda: "n3" in serving(scaling, "wide"), lambda: decisions(scaling))
        with Load(scaling, "/function/steady", callers=5) as steady:
            scaling.wait(lambda: "n3" in serving(scaling, "steady"), lambda: decisions(scaling))
            check_added(scaling)
            wide.stop()
            scaling.wait(lambda: nodes(scaling) == {"n1", "n2"} and not added(scaling), lambda: decisions(scaling))
            steady.wait_for_more(10)
    assert wide.failed() == steady.failed() == []
    assert [made["about"] for made in decisions(scaling) if made["action"] == "remove"].count("node n3") == 1


def check_added(cluster: Cluster) -> None:
    """n3 is made as a worker of compose.yaml is, knows no more secrets than that, and is as good a node."""
    n3, n1 = inspect(cluster, f"{PROJECT}-n3", cluster.container("worker-1"))
    assert made_of(n3) == made_of(n1)
    assert n3["HostConfig"]["Memory"] == (NODE_MB + 256) * 2**20
    assert not [name for name in (*ROLES, "cluster", "token") if cluster.secret(name) in json.dumps(n3)]
    rows = {row["node"]: row for row in cluster.manage("GET", "nodes")}
    for field in ("memory_mb", "isolation", "version", "state"):
        assert rows["n3"][field] == rows["n1"][field]


def decisions(cluster: Cluster) -> list[dict[str, Any]]:
    """The scalers', oldest first."""
    answer = cluster.engine.inside(lambda: manage(cluster, "GET", "scaler/log"))
    return [json.loads(line) for line in answer.body.splitlines()]


def test_the_engine_is_for_scalers_only(scaling: Cluster) -> None:
    """Nobody else has its socket; they have it without any other right."""
    having = set()
    for container in scaling.containers():
        if any("docker.sock" in each["Destination"] for each in container["Mounts"]):
            having.add(container["Config"]["Labels"]["com.docker.compose.service"])
    assert having == {"scaler-1", "scaler-2"}
    test_nobody_is_root_but_the_worker(scaling)


async def leader(bus: Bus) -> str:
    lease = await Bucket(bus, storage.LEASES).get(storage.SCALER_LEASE_KEY)
    return records.decode(lease.value, records.ScalerLease).scaler if lease else ""


def test_scaler_killed_while_it_adds_a_node(scaling: Cluster) -> None:
    """kill -9 of the one that leads, when the container has just begun: the next to lead goes on with it, adds no
    second one in its place, and takes it away when it is not needed any more."""
    scaling.wait(lambda: not serving(scaling, "steady"))  # its idle instances ask for a node of their own
    engine, leads = scaling.engine, scaling.wait(lambda: scaling.on_nats(leader))
    pid = engine.pid(scaling.container(f"scaler-{leads.removeprefix('s')}"))
    with Starts(engine, "mayfly-node") as starts:
        with Load(scaling, "/function/wide") as wide:
            assert starts.next() == f"{PROJECT}-n3"
            engine.kill_process(pid)
            assert "service.ready" not in engine.docker("logs", f"{PROJECT}-n3"), "it was killed too late"
            scaling.wait(lambda: "n3" in serving(scaling, "wide"), lambda: decisions(scaling))
            wide.wait_for_more(20)
        scaling.wait(lambda: nodes(scaling) == {"n1", "n2"} and not added(scaling), lambda: decisions(scaling))
        assert starts.rest() == [], decisions(scaling)
    assert wide.failed() == []
    scaling.wait(lambda: not scaling.unwell(), scaling.describe)


def test_everything_stops_in_order(scaling: Cluster) -> None:
    """Typed as docs/machines.md says, while there is an added node: each ends by itself and says that all was well;
    afterwards nothing is left of it but the image."""
    with Load(scaling, "/function/wide") as wide:
        scaling.wait(lambda: serving(scaling, "wide") > {"n1", "n2"}, lambda: decisions(scaling))
    assert wide.failed() == []
    _begin, (stop_scalers, stop_added, remove_added, down) = typed_in_docs(SCALING_SECTION)
    scaling.type(stop_scalers, stop_added)
    assert {each["State"]["ExitCode"] for each in inspect(scaling, *added(scaling))} == {0}
    scaling.type(remove_added)
    scaling.compose("stop")
    codes = {
        row["Config"]["Labels"]["com.docker.compose.service"]: row["State"]["ExitCode"] for row in scaling.containers()
    }
    assert {name for name, code in codes.items() if code} == set()
    scaling.type(f"{down} --volumes")
    assert scaling.engine.docker("ps", "--all", "--quiet") == ""
    assert scaling.engine.docker("volume", "ls", "--quiet") == ""
    assert scaling.engine.docker("network", "ls", "--filter", "type=custom", "--quiet") == ""
