"""The life of instances on a node: started, failed, reclaimed, stopped, evicted, handed over."""

import asyncio
from pathlib import Path

from mayfly_chassis.objects import ObjectStore
from mayfly_proto import storage
from mayfly_proto.ownership import owner
from tests.conftest import Connect
from tests.integration.conftest import StartNode
from tests.integration.worker_driver import Driver, until

SLEEP = "import time\ndef handler(event, context):\n    time.sleep(event)\n    return 'slept'\n"


async def test_import_error_is_reported_with_its_traceback(start_node: StartNode) -> None:
    """The router that ordered the instance learns why it will not come; its memory is free again."""
    driver = await start_node()
    await driver.deploy("hello", "import nothing_of_that_name\n")
    await driver.start("hello", "i1")
    await until(lambda: driver.failed)
    failed = driver.failed[0]
    assert (failed.instance, failed.kind) == ("i1", "init_failed")
    assert "nothing_of_that_name" in failed.message + failed.traceback
    await until(driver.instances, lambda instances: instances == [])
    assert await driver.route("hello") is None


async def test_start_of_an_unknown_version_or_missing_code_is_reported(start_node: StartNode) -> None:
    """Nothing hangs: each accepted start ends in the Route Cache or in `Failed`."""
    driver = await start_node()
    await driver.start("nobody", "i1")
    spec = await driver.deploy("hello")
    await ObjectStore(driver.bus, storage.CODE).delete(spec.package.sha256)
    await driver.start("hello", "i2", "i3")
    await until(lambda: len(driver.failed) == 3)
    assert {failed.instance for failed in driver.failed} == {"i1", "i2", "i3"}
    assert {failed.kind for failed in driver.failed} == {"init_failed"}


async def test_instance_that_ends_while_it_starts_is_reported_once(start_node: StartNode) -> None:
    """`os._exit` at import."""
    driver = await start_node()
    await driver.deploy("hello", "import os\nos._exit(7)\n")
    await driver.start("hello", "i1")
    await until(driver.instances, lambda instances: instances == [])
    await until(lambda: driver.failed)
    assert [(failed.instance, failed.kind) for failed in driver.failed] == [("i1", "init_failed")]


async def test_idle_instance_is_reclaimed_after_its_keep_alive(start_node: StartNode) -> None:
    """Route, record and process go; the next call needs a start, and is cold again."""
    driver = await start_node()
    await driver.up("hello", keep_alive_s=0.3)
    assert (await driver.call("hello")).headers["Mayfly-Start"] == "cold"
    (instance,) = await driver.instances()
    await driver.gone("hello")
    await until(driver.instances, lambda instances: instances == [])
    await until(lambda: not Path(f"/proc/{instance.pid}").exists())
    await driver.start("hello", "again")
    await driver.ready("hello")
    assert (await driver.call("hello")).headers["Mayfly-Start"] == "cold"


async def test_busy_instance_outlives_its_keep_alive(start_node: StartNode) -> None:
    """Only idle ones are reclaimed."""
    driver = await start_node()
    await driver.up("hello", SLEEP, keep_alive_s=0.1, timeout_s=5)
    assert (await driver.call("hello", b"0.8")).payload == b"slept"


async def test_held_instance_stays_and_the_surplus_goes(start_node: StartNode) -> None:
    """A hold is a floor for reclaim."""
    driver = await start_node()
    driver.hold("hello", 1)
    await driver.up("hello", keep_alive_s=0.2, instances=2)
    await driver.ready("hello", 1)
    await asyncio.sleep(0.6)
    assert len((await driver.ready("hello", 1)).instances) == 1
    driver.hold("hello", 0)  # or the node would wait for its owner
    await driver.gone("hello")


async def test_windows_of_the_owner_count(start_node: StartNode) -> None:
    """Further instances go after their window, the last one after its own, whatever the version says."""
    driver = await start_node()
    driver.hold("hello", 0, last_ms=2500, further_ms=500)
    await driver.up("hello", keep_alive_s=60, instances=3)
    await driver.ready("hello", 1)
    await driver.gone("hello")
    usage = await until(lambda: driver.usage, lambda usage: len(usage) == 3)
    assert usage[0].alive_ms >= 500
    assert usage[2].alive_ms >= 2500


async def test_retired_version_finishes_its_call_and_leaves(start_node: StartNode) -> None:
    """`Stop` takes the route away at once, lets the busy one finish, and takes no further call."""
    driver = await start_node()
    await driver.up("hello", SLEEP, instances=2, timeout_s=5)
    running = driver.send("hello", b"0.5")
    await until(driver.instances, lambda instances: any(i.state == "busy" for i in instances))
    driver.stop("hello")
    await driver.gone("hello")
    driver.send("hello", b"0")
    await until(lambda: driver.refused == [(2, "busy")])
    assert (await running).payload == b"slept"
    await until(driver.instances, lambda instances: instances == [])
    assert [usage.calls for usage in await until(lambda: driver.usage, lambda u: len(u) == 2)] in ([0, 1], [1, 0])


async def test_stop_by_number_takes_idle_ones_first(start_node: StartNode) -> None:
    """What a router frees for another version of the same function."""
    driver = await start_node()
    await driver.up("hello", SLEEP, instances=2, timeout_s=5)
    running = driver.send("hello", b"0.3")
    await until(driver.instances, lambda instances: any(i.state == "busy" for i in instances))
    driver.stop("hello", 1)
    await driver.ready("hello", 1)
    assert (await running).kind == "ok"


async def test_idle_instance_of_another_function_makes_room(start_node: StartNode) -> None:
    """A node with room for one instance serves two functions in turn; a busy one is never evicted."""
    driver = await start_node(memory_mb=128)
    await driver.up("a", SLEEP, timeout_s=5)
    await driver.call("a", b"0")
    await driver.up("b", SLEEP, timeout_s=5)
    await driver.gone("a")
    running = driver.send("b", b"0.3")
    await until(driver.instances, lambda instances: any(i.state == "busy" for i in instances))
    refused = await driver.start("a", "a9")
    assert (refused.accepted, refused.reason) == ([], "no_room")
    assert (await running).kind == "ok"


async def test_order_that_comes_twice_starts_one_instance(start_node: StartNode) -> None:
    """The answer may have been lost; the id says that it is the same order."""
    driver = await start_node()
    await driver.deploy("hello")
    assert (await driver.start("hello", "i1")).accepted == ["i1"]
    assert (await driver.start("hello", "i1")).accepted == ["i1"]
    assert (await driver.ready("hello")).instances == ["i1"]
    assert len(await driver.instances()) == 1


async def test_instances_are_listed_for_people(start_node: StartNode) -> None:
    """State, pid, counts, memory and the phases of the cold start."""
    driver = await start_node()
    await driver.up("hello")
    await driver.call("hello")
    (row,) = await driver.instances()
    assert (row.instance, row.function, row.version, row.node, row.state) == ("hello0", "hello", 1, "n1", "idle")
    assert (row.calls, row.pid > 0, row.memory_mb > 0) == (1, True, True)
    assert {"fetch", "unpack", "total"} <= row.cold_start_ms.keys()


async def test_new_owner_adopts_running_calls_under_numbers_of_its_own(start_node: StartNode, connect: Connect) -> None:
    """The caller still gets its reply; `done` goes to the adopter; the old owner's frames are refused."""
    old = await start_node()
    function = next(name for name in ("a", "b", "c", "d", "e", "f") if owner(name, ["r1", "r2"]) == "r2")
    await old.up(function, SLEEP, timeout_s=5, instances=2)
    running = old.send(function, b"0.5")
    await until(old.instances, lambda instances: any(i.state == "busy" for i in instances))
    new = Driver(await connect("operator"), "r2")
    await new.listen()
    new.epoch = 2
    adopted = await new.adopt(["r1", "r2"])
    assert [(call.seq, call.invocation) for call in adopted.calls] == [(-1, "inv1")]
    assert sorted(view.state for view in adopted.instances) == ["busy", "idle"]
    assert adopted.last_seq == 0
    old.send(function, b"0")
    await until(lambda: old.refused == [(2, "stale")])
    assert (await old.start(function, "late")).reason == "stale"
    assert (await new.call(function, b"0")).kind == "ok"
    assert (await running).payload == b"slept"
    await until(lambda: sorted(new.finished) == [-1, 1])
    assert old.finished == []


async def test_a_router_that_leaves_has_heard_what_was_refused_when_it_has_asked(start_node: StartNode) -> None:
    """Nothing is its own any more, so nothing is handed to it; and of its frames before the question none is open."""
    leaver = await start_node()
    await leaver.up("hello")
    leaver.send("hello")
    leaver.send("elsewhere")
    leaver.epoch = 2
    answer = await leaver.adopt(["r2"])
    assert leaver.refused == [(2, "busy")]
    assert (answer.last_seq, answer.calls, answer.instances) == (2, [], [])


async def test_code_cache_is_bounded_and_spares_what_is_in_use(start_node: StartNode, tmp_path: Path) -> None:
    """The least recently used package goes; an instance keeps its files."""
    driver = await start_node(cache_mb=1)
    code = tmp_path / "data" / "code"
    filler = "#" + "x" * 600_000
    await driver.up("a", "def handler(event, context):\n    return open(__file__).read(3)\n#a" + filler)
    await driver.up("b", "def handler(event, context):\n    return 1\n#b" + filler)
    await driver.up("c", "def handler(event, context):\n    return 1\n#c" + filler)
    assert len(list(code.iterdir())) == 3
    driver.stop("b")
    await driver.gone("b")
    await until(driver.instances, lambda instances: len(instances) == 2)
    await driver.up("d", "def handler(event, context):\n    return 1\n#d" + filler)
    assert len(list(code.iterdir())) == 3
    assert (await driver.call("a")).payload == b"def"
    await driver.start("b", "again")
    await driver.ready("b")
    assert (await driver.call("b")).payload == b"1"
