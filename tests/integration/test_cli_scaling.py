"""The command on nodes, load and the scaler: a real gateway and registry; workers, a router and a scaler by hand."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar

import pytest

from mayfly.client import Client
from mayfly_broker.server import EmbeddedServer
from mayfly_chassis.bus import Bus
from mayfly_chassis.kv import Bucket
from mayfly_proto import api, records, storage, subjects
from mayfly_proto.errors import CallError, ErrorType
from mayfly_proto.records import Decision, FunctionLoad, NodeLoad, NodeTarget, RouterLoad, VersionLoad
from tests.conftest import Connect
from tests.integration.durable_peers import gateway_and_registry
from tests.integration.gateway import TOKEN
from tests.integration.test_gateway_nodes import decision, join
from tests.pseudo_terminal import PseudoTerminal, terminal

MAYFLY = Path(sys.executable).with_name("mayfly")
T = TypeVar("T")

REDRAWN = "\x1b[H"


class Done(NamedTuple):
    code: int
    out: str
    err: str


class Peers:
    """The rest of the platform, as far as the gateway sees it."""

    def __init__(self, worker: Bus, router: Bus, scaler: Bus, environ: dict[str, str]) -> None:
        self.worker, self.router, self.scaler, self.environ = worker, router, scaler, environ
        self.targets = Bucket(scaler, storage.TARGETS)
        self.calls = 0

    async def run(self, *arguments: str | Path, environ: dict[str, str] | None = None) -> Done:
        done = await _in_thread(
            lambda: subprocess.run(
                [MAYFLY, *arguments], env=environ or self.environ, capture_output=True, text=True, timeout=50
            )
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def report(self, *, busy: int = 0, ready: int = 1, state: str = "up", calls: int = 0) -> None:
        """One second of a node n1 and a router, with so many more calls of `hello`."""
        self.calls += calls
        node = NodeLoad(
            node="n1",
            epoch=7,
            seq=1,
            memory_mb=512,
            memory_used_mb=128 * ready,
            cpu_percent=25.0,
            instances={"hello": {"1": VersionLoad(ready=ready, busy=busy)}},
            routers={},
            state=state,
        )
        load = FunctionLoad(calls=self.calls, p50_ms=1.5, p99_ms=12.25, queued=busy)
        self.worker.publish(subjects.load_node("n1"), records.encode(node))
        router = RouterLoad(router="r1", epoch=1, functions={"hello": load})
        self.router.publish(subjects.load_router("r1"), records.encode(router))

    @asynccontextmanager
    async def reporting(self, **load: int) -> AsyncIterator[None]:
        """Ten times a second, which only makes the rates higher."""

        async def go_on() -> None:
            while True:
                self.report(**load)
                await asyncio.sleep(0.1)

        task = asyncio.create_task(go_on())
        try:
            yield
        finally:
            task.cancel()

    async def answer_drains(self, done: Callable[[str, str], None] = lambda verb, node: None) -> None:
        """As a scaler does; ``done(verb, node)`` is told afterwards."""

        async def drain(verb: str, node: str, why: str, reply: bytes) -> None:
            key = storage.node_target_key(node)
            if node != "n1":
                error = CallError(ErrorType.NOT_FOUND, f"there is no node {node}", component="scaler")
                return self.scaler.publish(reply, error.body(), headers=error.headers())
            if verb == api.DRAIN:
                target = NodeTarget(by="operator", since="2026-01-01T00:00:00Z", why=why)
                await self.targets.put(key, records.encode(target))
            else:
                await self.targets.delete(key)
            state = "draining" if verb == api.DRAIN else "up"
            answer = api.NodeReply(node=node, state=state, draining=verb == api.DRAIN)
            self.scaler.publish(reply, api.encode(answer))
            done(verb, node)

        def received(subject: bytes, reply: bytes, _raw: bytes | None, payload: bytes) -> None:
            request = records.decode(payload, api.NodeRequest)
            tasks.add(asyncio.create_task(drain(subject.decode().rpartition(".")[2], request.node, request.why, reply)))

        tasks: set[asyncio.Task[None]] = set()
        await self.scaler.subscribe(subjects.NODE_API, received, queue=subjects.SCALER_QUEUE)
        await self.scaler.flush()


@pytest.fixture
async def peers(server: EmbeddedServer, tmp_path: Path, connect: Connect) -> AsyncIterator[Peers]:
    """With one node, n1."""
    worker = await connect("worker")
    await join(worker, "n1", zone="a")
    async with gateway_and_registry(server, tmp_path, connect) as http:
        environ = {**os.environ, "MAYFLY_URL": http.url, "MAYFLY_TOKEN": TOKEN}
        environ.pop("MAYFLY_DATA", None)
        yield Peers(worker, await connect("router"), await connect("scaler"), environ)


async def _in_thread(work: Callable[[], T]) -> T:
    return await asyncio.to_thread(work)


async def test_top_once_is_two_tables(peers: Peers) -> None:
    """Nodes with their memory, functions with rate, times and queue; into a pipe no control codes."""
    async with peers.reporting(ready=2, busy=1, calls=5):
        while not re.search(
            r"^hello .* [1-9]\d*\.?\d* +1\.5 +12\.2 ", (done := await peers.run("top", "--once")).out, re.M
        ):
            assert (done.code, done.err) == (0, "")
    assert "\x1b" not in done.out
    head, _, nodes, node, _, functions, function = done.out.splitlines()
    assert re.match(r"1 nodes, 2 instances, 1 busy; 1 functions, \d+ calls/s, 1 waiting", head)
    assert nodes.split() == ["NODE", "STATE", "MEMORY", "MB", "CPU", "%", "READY", "BUSY", "STARTING"]
    assert re.match(r"n1 +up +#####\.\.\.\.\. +50 % of 512 +25 +2 +1 +0$", node)
    assert functions.startswith(
        "FUNCTION  READY  BUSY  STARTING  RATE/S  P50 MS  P99 MS  COLD %  QUEUE  BACKLOG  ERRORS  429"
    )
    assert function.startswith("hello ")


async def test_top_for_programs_is_one_object(peers: Peers) -> None:
    """`-o json` ends by itself; before any report there are no figures, and no error."""
    done = await peers.run("top", "-o", "json")
    assert done.code == 0
    told = json.loads(done.out)
    assert [(row["node"], row["memory_used_mb"], row["labels"]) for row in told["nodes"]] == [("n1", None, "zone=a")]
    assert told["functions"] == []
    assert "no calls yet" in (await peers.run("top", "--once")).out


async def test_top_into_a_pipe_goes_on(peers: Peers) -> None:
    """Tables follow one another as lines, until whoever reads has enough."""
    command = [MAYFLY, "top"]
    process = await asyncio.create_subprocess_exec(*command, env=peers.environ, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    async with asyncio.timeout(20):
        for _ in range(2):
            while not (line := await process.stdout.readline()).startswith(b"1 nodes"):
                assert b"\x1b" not in line
                assert process.returncode is None
    process.terminate()
    await process.wait()


@pytest.mark.parametrize(("key", "code"), [("q", 0), ("\x03", 0)])
async def test_top_on_a_terminal_until_a_key(peers: Peers, key: str, code: int) -> None:
    """It shows what changes, ends by q or Ctrl-C, and gives the terminal back as it was."""

    def person(screen: PseudoTerminal) -> None:
        screen.shows(r"(?s)n1 +up .*hello .*\x1b\[K")
        screen.type("x")  # no key of its own
        screen.shows(re.escape(REDRAWN))
        screen.type(key)
        assert screen.ends() == code

    async with peers.reporting(calls=1):
        with terminal([MAYFLY, "top"], peers.environ) as screen:
            before = screen.attributes()
            await _in_thread(lambda: person(screen))
            assert screen.attributes() == before
    assert screen.output.startswith(b"\x1b[?1049h")
    assert screen.output.rstrip().endswith(b"\x1b[?1049l")


async def test_top_gives_the_terminal_back_when_it_is_told_to_end(peers: Peers) -> None:
    """SIGTERM leaves no terminal without echo behind."""
    with terminal([MAYFLY, "top"], peers.environ) as screen:
        before = screen.attributes()
        await _in_thread(lambda: screen.shows("n1 +up"))
        screen.process.send_signal(signal.SIGTERM)
        assert await _in_thread(screen.ends) == 128 + signal.SIGTERM
        assert screen.attributes() == before


async def test_top_fits_a_small_terminal(peers: Peers) -> None:
    """What has no place is counted, and no line is wider than the screen."""
    for number in range(2, 40):
        await join(peers.worker, f"n{number}")
    with terminal([MAYFLY, "top"], peers.environ, columns=40, lines=16) as screen:
        await _in_thread(lambda: screen.shows(r"\.\.\. 3\d more"))
        await _in_thread(lambda: screen.shows(re.escape(REDRAWN)))
        screen.type("q")
        await _in_thread(screen.ends)
    pages = screen.output.decode().split(REDRAWN)[1:]
    plain = [[re.sub(r"\x1b\[[?\d]*[a-zA-Z]", "", line) for line in page.splitlines()] for page in pages]
    assert all(len(page) <= 16 for page in plain)
    assert all(len(line) <= 40 for page in plain for line in page)


async def test_top_waits_for_a_platform_that_starts_again(server: EmbeddedServer, peers: Peers) -> None:
    """A gateway that cannot answer for a moment is said, and does not end it."""
    with terminal([MAYFLY, "top"], peers.environ) as screen:
        await _in_thread(lambda: screen.shows("n1 +up"))
        server.stop()
        await _in_thread(lambda: screen.shows("NATS does not answer|did not answer"))
        server.start()
        await _in_thread(lambda: screen.shows("q ends"))
        screen.type("q")
        assert await _in_thread(screen.ends) == 0


async def test_nodes_show_what_they_carry(peers: Peers) -> None:
    """Columns of drains are there while something drains."""
    peers.report(ready=2, busy=1)
    await peers.worker.flush()
    while "256" not in (done := await peers.run("nodes")).out:
        pass
    heads = re.split(r"\s{2,}", done.out.splitlines()[0])
    assert heads[:6] == ["NODE", "STATE", "CORES", "CPU PERCENT", "MEMORY MB", "MEMORY USED MB"]
    assert heads[6:] == ["READY", "BUSY", "STARTING", "LABELS", "HEARD S", "ISOLATION", "VERSION"]
    target = NodeTarget(by="scaler", since="2026-01-01T00:00:00Z", why="fits on one")
    await peers.targets.put(storage.node_target_key("n1"), records.encode(target))
    assert re.search(r"DRAIN BY +DRAIN WHY[^\n]*\n.* scaler +fits on one ", (await peers.run("nodes")).out)


async def test_drain_is_said_and_undone(peers: Peers) -> None:
    """One line each; an unknown node is exit code 4, a platform without a scaler 1."""
    alone = await peers.run("drain", "n1")
    assert (alone.code, alone.err) == (
        1,
        "Error: no scaler is running, and it is the scaler that empties nodes (503 unavailable)\n",
    )
    await peers.answer_drains()
    assert await peers.run("drain", "n1", "--why", "new disk") == (0, "n1 is being emptied\n", "")
    (row,) = json.loads((await peers.run("nodes", "-o", "json")).out)
    assert (row["drain_by"], row["drain_why"]) == ("operator", "new disk")
    assert await peers.run("undrain", "n1") == (0, "n1 takes instances again\n", "")
    unknown = await peers.run("drain", "n9")
    assert (unknown.code, unknown.err) == (4, "Error: there is no node n9 (404 not_found)\n")


async def test_drain_waits_until_it_is_empty(peers: Peers) -> None:
    """`--wait` returns when nothing runs there, and not before."""
    await peers.answer_drains()
    peers.report(ready=2, busy=1, state="draining")
    waiting = asyncio.create_task(peers.run("drain", "n1", "--wait"))
    async with asyncio.timeout(10):
        while await peers.targets.get(storage.node_target_key("n1")) is None:
            await asyncio.sleep(0.01)
    await asyncio.sleep(1)  # it has looked, and has seen that it is not empty
    assert not waiting.done()
    peers.report(ready=0, state="empty")
    done = await waiting
    assert (done.code, done.out) == (0, "n1 is being emptied\nn1 is empty\n")
    assert "n1 has 2 instances, 1 busy" in done.err


async def test_drain_that_somebody_undoes_is_no_success(peers: Peers) -> None:
    """A script that takes the machine away next must not go on."""
    await peers.answer_drains()
    peers.report(ready=1, state="draining")
    with subprocess.Popen(
        [MAYFLY, "drain", "n1", "--wait"], env=peers.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        assert "n1 has" in await _in_thread(process.stderr.readline)
        await asyncio.sleep(0.7)  # it has seen that the node is to be empty
        assert (await peers.run("undrain", "n1")).code == 0
        assert "somebody has undrained it" in await _in_thread(process.stderr.read)
        assert await _in_thread(process.wait) == 1


async def test_decisions_are_lines(peers: Peers) -> None:
    """What about, what, why, and the figures; the last ones, and those to come."""
    told = Decision(
        time="2026-01-31T12:00:00Z",
        scaler="s1",
        epoch=1,
        about="nodes",
        action="add",
        count=2,
        seen={"demand": 2.71828, "up": 1, "booting": 0, "blocked": False},
        why="demand is above 85 %",
    )
    peers.scaler.publish(subjects.DECISIONS, decision(1))
    peers.scaler.publish(subjects.DECISIONS, records.encode(told))
    await peers.scaler.flush()
    while len((done := await peers.run("scaler", "log")).out.splitlines()) < 2:
        assert done.code == 0
    line = "2026-01-31T12:00:00Z  nodes  add 2  demand is above 85 %  (demand=2.72 up=1)\n"
    assert (await peers.run("scaler", "log", "-n", "1")).out == line
    rows = json.loads((await peers.run("scaler", "log", "-o", "json")).out)
    assert [row["count"] for row in rows] == [1, 2]
    follow = [MAYFLY, "scaler", "log", "-f", "-n", "0"]
    with subprocess.Popen(follow, env=peers.environ, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        reading = asyncio.create_task(_in_thread(process.stdout.readline))
        while not reading.done():
            peers.scaler.publish(subjects.DECISIONS, records.encode(told))
            await asyncio.sleep(0.05)
        assert await reading == line
        process.terminate()


async def test_python_client_drains(peers: Peers, server: EmbeddedServer) -> None:
    """What the command can do, over NATS: typed, and with the errors that calls have."""
    password = server.passwords["operator"]
    async with Client(nats=server.url, user="operator", password=password) as client:
        with pytest.raises(CallError, match="no scaler is running"):
            await client.drain("n1")
        await peers.answer_drains()
        assert await client.drain("n1", "new disk") == api.NodeReply(node="n1", state="draining", draining=True)
        assert (await client.undrain("n1")).state == "up"
        with pytest.raises(CallError) as unknown:
            await client.drain("n9")
        assert unknown.value.kind is ErrorType.NOT_FOUND
        assert [(lease.node, lease.labels) for lease in await client.nodes()] == [("n1", {"zone": "a"})]
    async with Client(nats=server.url) as anonymous:
        with pytest.raises(CallError, match="operator"):
            await anonymous.nodes()


@pytest.fixture
def credential(server: EmbeddedServer, tmp_path: Path) -> Path:
    file = tmp_path / "worker-password"
    file.write_text(server.passwords["worker"])
    return file


async def test_worker_does_not_take_a_living_nodes_name(peers: Peers, server: EmbeddedServer, credential: Path) -> None:
    """Two machines called alike do not push one another out: the second is told."""

    async def renew() -> None:
        while True:
            await join(peers.worker, "n1")
            await asyncio.sleep(0.3)

    living = asyncio.create_task(renew())
    done = await peers.run("worker", "--join", server.url, "--credential", credential, "--node", "n1")
    living.cancel()
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("Error: there is a node n1 already, and it lives")


@pytest.mark.parametrize(
    ("options", "code", "sentence"),
    [
        (["--node", "N 1"], 2, "node name 'N 1': must be a-z, 0-9 and '-'"),
        (["--label", "gpu"], 2, "--label 'gpu': must be NAME=VALUE"),
        (["--label", "gpu=a,b"], 2, "'a,b' must be letters, digits"),
        (["--join", "http://host:4222"], 2, "MAYFLY_NATS_URL=http://host:4222"),
        (["--join", "nats://host:port"], 2, "--join 'nats://host:port'"),
        (["--join", "nats://127.0.0.1:9"], 1, "cannot join nats://127.0.0.1:9"),
        (["--credential", "/nowhere"], 2, "'/nowhere' does not exist"),
    ],
)
async def test_worker_that_cannot_be_started_says_why(
    peers: Peers, server: EmbeddedServer, credential: Path, options: list[str], code: int, sentence: str
) -> None:
    """By exit code and one sentence, before anything is started."""
    given = ["--join", server.url, "--credential", str(credential), *options]
    done = await peers.run("worker", *given)
    assert done.code == code, done.err
    assert sentence in done.err


async def test_worker_with_the_wrong_password_is_told_so(peers: Peers, server: EmbeddedServer, tmp_path: Path) -> None:
    """And the password is in no message."""
    wrong = tmp_path / "wrong"
    wrong.write_text("s3cret")
    done = await peers.run("worker", "--join", server.url, "--credential", wrong)
    assert done.code == 1
    assert done.err.startswith(f"Error: cannot join {server.url}")
    assert "s3cret" not in done.err
