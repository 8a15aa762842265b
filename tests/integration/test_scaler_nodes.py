"""The scaler's node level on a real server: nodes come and go by load, drains are kept, leaders may die at any moment.
Workers and `mayfly up` are stand-ins that speak as the real ones do (see `nodes_driver`)."""

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from time import monotonic

import pytest

from mayfly_broker.server import EmbeddedServer
from mayfly_proto import api
from tests.integration.nodes_driver import NODE_MB, Cluster, cluster
from tests.integration.worker_driver import until

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
async def mayfly(server: EmbeddedServer, tmp_path: Path) -> AsyncIterator[Cluster]:
    async with cluster(server, tmp_path) as mayfly:
        yield mayfly


async def gone(mayfly: Cluster, node: str) -> None:
    """Taken away, and forgotten: nothing says any more that it is to be empty."""
    await until(lambda: node not in mayfly.machine.listed)

    async def forgotten() -> bool:
        return await mayfly.target(node) is None

    await until(forgotten)


async def test_load_comes_and_goes(mayfly: Cluster) -> None:
    """What needs three nodes gets three; then they are drained, the last first, and taken away; each decision is said,
    with its figures and in a sentence."""
    await mayfly.machine.start("n1")
    await mayfly.scaler()
    await mayfly.machine.load(950)
    await until(lambda: mayfly.machine.up == ["n1", "n2"])
    await mayfly.machine.load(2000)
    await until(lambda: mayfly.machine.up == ["n1", "n2", "n3"])
    await mayfly.machine.load(2200)
    await asyncio.sleep(1.5)
    assert mayfly.machine.up == ["n1", "n2", "n3"]
    await mayfly.machine.load(100)
    await gone(mayfly, "n3")
    await gone(mayfly, "n2")
    assert mayfly.machine.asked == ["add n2", "add n3", "remove n3", "remove n2"]
    told = [(d.about, d.action, d.seen.get("nodes")) for d in mayfly.decisions if d.about != "leader"]
    assert told == [
        ("nodes", "add", ["n2"]),
        ("nodes", "add", ["n3"]),
        ("nodes", "drain", ["n3"]),
        ("node n3", "remove", None),
        ("nodes", "drain", ["n2"]),
        ("node n2", "remove", None),
    ]
    first = mayfly.decided("add")[0]
    assert (first.seen["memory"], first.seen["up"], first.why) == (0.95, 1, "demand is above 85% of what is there")


async def test_blocked_instances_bring_a_node_at_once(mayfly: Cluster) -> None:
    """Not at the next look in a minute. Those that no node of the provider's would help bring none: labels, and what is
    too large."""
    await mayfly.deploy("hello", memory_mb=100)
    await mayfly.deploy("giant", memory_mb=NODE_MB + 1)
    await mayfly.deploy("labelled", memory_mb=100, node_labels={"gpu": "yes"})
    await mayfly.machine.start("n1", used_mb=500, labels={"disk": "fast"})
    await mayfly.machine.start("n9", labels={"gpu": "yes"}, used_mb=NODE_MB, by_hand=True)
    await mayfly.scaler(tick_s=60)
    await until(lambda: mayfly.decided("lead"))
    mayfly.block(5, "labelled")  # the one node that has it is full, and the provider's have none
    mayfly.block(1, "giant", NODE_MB + 1)
    await asyncio.sleep(1.0)
    assert mayfly.machine.asked == []

    def blocked() -> bool:
        mayfly.block(6)
        return mayfly.machine.up == ["n1", "n2", "n9"]

    await until(blocked, timeout_s=4)
    assert mayfly.machine.asked == ["add n2"]


async def test_what_has_found_its_place_is_not_counted_twice(mayfly: Cluster) -> None:
    """Instances that waited for a node run there now: the word that they wait is old."""
    await mayfly.deploy("hello", memory_mb=100)
    await mayfly.machine.start("n1", used_mb=800)
    await mayfly.scaler()
    await until(lambda: mayfly.decided("lead"))
    mayfly.block(5)
    await until(lambda: mayfly.machine.up == ["n1", "n2"])
    await mayfly.machine.load(1300)
    await asyncio.sleep(2.0)
    assert mayfly.machine.asked == ["add n2"]


async def test_what_fits_nowhere_else_keeps_its_node(mayfly: Cluster) -> None:
    """Three nodes would do by the sum, and none of them has room for one more piece: nothing is drained, and had back,
    and drained again. When there is room, the last node goes; the limit takes nodes away whatever runs there."""
    await mayfly.deploy("large", memory_mb=540)
    await mayfly.deploy("small", memory_mb=100)
    for number in range(1, 5):
        await mayfly.machine.start(f"n{number}", used_mb=540, instances={"large": 1})
    await mayfly.scaler()
    await until(lambda: mayfly.decided("lead"))
    await asyncio.sleep(2.5)
    assert not mayfly.decided("drain")
    n4 = mayfly.machine.workers["n4"]
    n4.instances, n4.used_mb = {"small": 4, "deleted": 9}, 400
    await until(lambda: n4.draining)
    n4.used_mb = 0
    await gone(mayfly, "n4")
    assert [d.seen["nodes"] for d in mayfly.decided("drain")] == [["n4"]]


@pytest.mark.invariant("S24")
async def test_operators_word(mayfly: Cluster) -> None:
    """Drain: written down, carried out, said; the node is never taken away nor had back, however much is asked for.
    Undrain: at once. A node that nobody knows is 404."""
    await mayfly.machine.start("n1")
    n2 = await mayfly.machine.start("n2")
    await mayfly.scaler(max_nodes=2)
    assert await mayfly.ask(api.DRAIN, "n9") == 404
    assert await mayfly.ask(api.UNDRAIN, "n9") == 404
    assert await mayfly.ask(api.DRAIN, "n2", "a new disk") == api.NodeReply(node="n2", state="up", draining=True)
    await until(lambda: n2.draining)
    target = await mayfly.target("n2")
    assert target is not None and (target.by, target.why) == ("operator", "a new disk")
    await until(lambda: mayfly.decided("drain"))
    assert mayfly.decided("drain")[0].why == "an operator wants it empty: a new disk"
    await mayfly.machine.load(1000)
    n2.used_mb = 0
    await asyncio.sleep(1.5)
    assert (n2.draining, mayfly.machine.asked) == (True, [])
    reply = await mayfly.ask(api.UNDRAIN, "n2")
    assert isinstance(reply, api.NodeReply) and not reply.draining
    await until(lambda: not n2.draining)
    assert await mayfly.target("n2") is None


async def test_operator_may_free_the_name_of_a_node_that_is_away(mayfly: Cluster) -> None:
    """What is to be empty is so when it comes back; what was taken to another place can be forgotten."""
    await mayfly.machine.start("n1")
    await mayfly.scaler()
    await mayfly.want_empty("n7", "operator")
    await mayfly.want_empty("n8", "operator")
    n7 = await mayfly.machine.start("n7")
    await until(lambda: n7.draining)
    assert await mayfly.ask(api.DRAIN, "n8") == 404
    assert await mayfly.ask(api.UNDRAIN, "n8") == api.NodeReply(node="n8", state="empty", draining=False)
    assert await mayfly.target("n8") is None


async def test_operator_takes_over_what_the_scaler_drains(mayfly: Cluster) -> None:
    """Then it is not taken away when it is empty."""
    await mayfly.machine.start("n1")
    n2 = await mayfly.machine.start("n2", used_mb=100)
    await mayfly.scaler()
    await until(lambda: n2.draining)
    await mayfly.ask(api.DRAIN, "n2")
    n2.used_mb = 0
    await asyncio.sleep(1.5)
    target = await mayfly.target("n2")
    assert target is not None and target.by == "operator"
    assert mayfly.machine.asked == []


@pytest.mark.invariant("S20")
async def test_draining_node_comes_back_before_another_is_added(mayfly: Cluster) -> None:
    """It is the fastest of all nodes: it is there."""
    n1 = await mayfly.machine.start("n1")
    n2 = await mayfly.machine.start("n2", used_mb=100)
    await mayfly.scaler()
    await until(lambda: n2.draining)
    n1.used_mb = NODE_MB
    await until(lambda: not n2.draining)
    assert await mayfly.target("n2") is None
    assert mayfly.machine.asked == []
    assert [d.seen["nodes"] for d in mayfly.decided("undrain") if d.about == "nodes"] == [["n2"]]


@pytest.mark.invariant("I22")
async def test_provider_that_is_down(mayfly: Cluster) -> None:
    """Nothing is drained while it does not answer, though nothing is asked for; retries are said, and far between; when
    it is back, all goes on, and no node is made twice."""
    await mayfly.machine.start("n1")
    await mayfly.machine.start("n2")
    await mayfly.scaler()
    await until(lambda: mayfly.decided("lead"))
    await mayfly.machine.fall_silent()
    await until(lambda: mayfly.decided("back_off"))
    assert mayfly.decided("back_off")[0].seen == {"failures": 1, "wait_s": 5.0}
    await asyncio.sleep(2)
    assert len(mayfly.decided("back_off")) == 1
    assert mayfly.decided("drain") == []
    await mayfly.machine.serve()
    await gone(mayfly, "n2")
    assert mayfly.machine.asked == ["remove n2"]


@pytest.mark.invariant("I22")
async def test_provider_that_refuses(mayfly: Cluster) -> None:
    """What it did not start is not on its way: said, and tried again after the pause, not after a whole boot's time."""
    mayfly.machine.full = True
    await mayfly.machine.start("n1", used_mb=950)
    await mayfly.scaler(boot_s=60)
    await until(lambda: mayfly.decided("back_off"))
    assert mayfly.decided("back_off")[0].why == "mayfly up refuses to add n2: it is full"
    mayfly.machine.full = False
    await until(lambda: mayfly.machine.up == ["n1", "n2"])
    assert mayfly.machine.asked == ["add n2", "add n2"]


@pytest.mark.invariant("I22")
async def test_one_that_cannot_go_stands_in_no_others_way(mayfly: Cluster) -> None:
    """Neither of nodes that are to come nor of others that are to go: it is tried again, and that is all."""
    for number in range(1, 4):
        await mayfly.machine.start(f"n{number}")
    mayfly.machine.stuck.add("n3")
    await mayfly.scaler()
    await gone(mayfly, "n2")
    assert mayfly.decided("back_off")[0].why == "mayfly up refuses to remove n3: it is stuck"
    await mayfly.machine.load(1900)
    await until(lambda: mayfly.machine.up == ["n1", "n2", "n3"])
    assert mayfly.machine.asked[-1] == "add n2"


@pytest.mark.invariant("I22")
async def test_nodes_that_never_come(mayfly: Cluster) -> None:
    """Given up after the boot's time and taken away; the next try waits; what was lost is no capacity."""
    mayfly.machine.boots = False
    await mayfly.machine.start("n1", used_mb=950)
    await mayfly.scaler()
    await until(lambda: mayfly.decided("back_off"))
    await until(lambda: mayfly.machine.asked == ["add n2", "remove n2"])
    assert mayfly.decided("back_off")[0].why == "n2 did not come within 1.5 s"
    mayfly.machine.boots = True
    await until(lambda: mayfly.machine.up == ["n1", "n2"])
    assert mayfly.machine.asked == ["add n2", "remove n2", "add n2"]


@pytest.mark.invariant("I33")
async def test_silent_nodes_freeze_scale_in(mayfly: Cluster) -> None:
    """One of two says nothing: who knows what runs there? It speaks again: the last one goes."""
    await mayfly.machine.start("n1")
    n2 = await mayfly.machine.start("n2")
    assert n2._task is not None
    n2._task.cancel()
    await mayfly.scaler(after_out_s=4.0)
    await asyncio.sleep(5.5)
    assert mayfly.decided("drain") == []
    n2._task = asyncio.create_task(n2._report())
    await gone(mayfly, "n2")


@pytest.mark.parametrize("after", ["wanted", "told", "empty", "removed"])
async def test_leader_is_killed_after_each_step(mayfly: Cluster, after: str) -> None:
    """kill -9 of the leader while a drain is wanted, told, over, or its node taken away: the next one goes on."""
    await mayfly.machine.start("n1")
    n2 = await mayfly.machine.start("n2", used_mb=100 if after in ("wanted", "told") else 0)
    n2.obeys = after != "wanted"
    if after == "empty":
        await mayfly.machine.fall_silent()
    first = await mayfly.scaler_process("s1")

    async def reached() -> bool:
        wanted = await mayfly.target("n2") is not None
        return {"wanted": wanted, "told": n2.draining, "empty": n2.draining, "removed": False}[after]

    if after == "empty":
        await mayfly.want_empty("n2")
    if after == "removed":
        await until(lambda: mayfly.machine.asked == ["remove n2"])
    else:
        await until(reached)
    first.send_signal(signal.SIGKILL)
    await first.wait()
    n2.obeys, n2.used_mb = True, 0
    if after == "empty":
        await mayfly.machine.serve()
    await mayfly.end_lease()
    await mayfly.scaler("s2")
    await gone(mayfly, "n2")
    assert mayfly.machine.up == ["n1"]
    assert mayfly.machine.asked == ["remove n2"]


async def test_worker_that_is_told_to_stop_is_left_alone(mayfly: Cluster) -> None:
    """A rolling restart: it drains by itself, is asked once to go on, and refuses. Its successor is another."""
    await mayfly.machine.start("n1")
    n2 = await mayfly.machine.start("n2", used_mb=800, draining=True, stopping=True)
    await mayfly.scaler()
    await until(lambda: n2.told == 1)
    await asyncio.sleep(1.5)
    assert (n2.told, mayfly.decided("undrain"), mayfly.machine.asked) == (1, [], [])
    await n2.end()
    n2 = await mayfly.machine.start("n2", epoch=2, draining=True)
    await until(lambda: not n2.draining)


async def test_scaler_stops_at_once_whatever_it_waits_for(mayfly: Cluster) -> None:
    """A provider that takes a minute to take a node away does not keep the scaler: the next leader goes on with it."""
    await mayfly.machine.start("n1")
    await mayfly.machine.start("n2")
    scaler = await mayfly.scaler()
    await until(lambda: mayfly.decided("drain"))
    mayfly.machine.hangs = True
    await until(lambda: mayfly.machine.asked == ["remove n2"])
    began = monotonic()
    await scaler.aclose()
    assert monotonic() - began < 2
    mayfly.machine.hangs = False
    await mayfly.scaler("s2")
    await gone(mayfly, "n2")


async def test_worker_outlives_all_scalers(mayfly: Cluster) -> None:
    """They are processes of another: when the last scaler stops, nothing happens to any node."""
    await mayfly.machine.start("n1", used_mb=950)
    scaler = await mayfly.scaler()
    await until(lambda: mayfly.machine.up == ["n1", "n2"])
    await scaler.aclose()
    assert mayfly.machine.up == ["n1", "n2"]
    assert mayfly.machine.asked == ["add n2"]
