"""What a node says of itself: its lease, and once a second its load."""

import time

from tests.integration.conftest import StartNode
from tests.integration.worker_driver import until

SLEEP = "import time\ndef handler(event, context):\n    time.sleep(event)\n    return 'slept'\n"
SPIN = """
import time

def handler(event, context):
    end = time.process_time() + event
    while time.process_time() < end:
        pass
"""
LARGE = "kept = []\ndef handler(event, context):\n    kept.append(bytearray(event * 2**20))\n"


async def test_heartbeat_tells_load_and_what_was_seen_of_each_router(start_node: StartNode) -> None:
    """With it a router finds what a broken connection swallowed."""
    driver = await start_node()
    await driver.up("hello", SLEEP, timeout_s=5)
    running = driver.send("hello", b"1.2")
    load = await until(lambda: next((load for load in driver.loads if load.routers.get("r1")), None))
    assert (load.routers["r1"].last_seq, load.routers["r1"].calls) == (1, [1])
    assert (load.instances["hello"]["1"].ready, load.instances["hello"]["1"].busy) == (1, 1)
    assert (load.memory_mb, load.memory_used_mb) == (1024, 128)
    assert (await running).kind == "ok"


async def test_a_full_node_says_at_once_that_it_has_room_again(start_node: StartNode) -> None:
    """Whoever waits for memory does not wait for the next heartbeat as well."""
    driver = await start_node(memory_mb=384)
    await driver.up("a", instances=3)
    await until(lambda: driver.loads and driver.loads[-1].memory_used_mb == 384)
    beats = len(driver.loads)
    await until(lambda: len(driver.loads) > beats)  # so that the next one is a second away
    stopped = time.monotonic()
    driver.stop("a", count=1)
    await until(lambda: driver.loads[-1].memory_used_mb == 256)
    assert time.monotonic() - stopped < 0.6


async def test_report_has_state_starts_and_evictions(start_node: StartNode) -> None:
    """Counted since the worker started: the scaler sees thrashing by them."""
    driver = await start_node(memory_mb=256)
    await driver.up("a", instances=2)
    await driver.call("a")
    await driver.call("a")
    await driver.up("b")
    load = await driver.reported(lambda load: "b" in load.instances)
    assert (load.state, load.starts, load.evicted) == ("up", 3, 1)


async def test_memory_that_instances_add_is_measured(start_node: StartNode) -> None:
    """Not what they were promised, and not what they share: what the node would have back."""
    driver = await start_node()
    await driver.up("small")
    await driver.up("large", LARGE)
    await driver.call("large", b"60")
    load = await driver.reported(
        lambda load: all(load.instances[name]["1"].private_mb > size for name, size in (("small", 0), ("large", 60)))
    )
    assert load.instances["small"]["1"].private_mb < 30
    assert load.instances["large"]["1"].private_mb < 100


async def test_processor_time_of_a_version_and_of_the_node(start_node: StartNode) -> None:
    """A handler that computes shows in its version's figure and the node's; one that sleeps does not."""
    driver = await start_node()
    await driver.up("spin", SPIN, timeout_s=30)
    await driver.up("sleep", SLEEP, timeout_s=30)
    driver.send("spin", b"3")
    driver.send("sleep", b"3")
    load = await driver.reported(lambda load: load.instances["spin"]["1"].cpu_percent > 10 and load.cpu_percent > 10)
    assert load.instances["sleep"]["1"].cpu_percent < 5
    assert load.cpu_percent <= 100
    driver.stop("spin")
    driver.stop("sleep")


async def test_labels_are_in_the_lease(start_node: StartNode) -> None:
    """There the activator finds them."""
    driver = await start_node(labels={"gpu": "yes", "zone": "a"})
    lease = await until(driver.lease)
    assert lease.labels == {"gpu": "yes", "zone": "a"}
