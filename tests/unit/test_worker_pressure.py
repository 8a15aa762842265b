"""A node whose memory really runs out."""

from collections.abc import Iterator

import pytest

from tests.unit.worker_rig import Rig


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig(memory_mb=2000)
    yield rig
    rig.close()


def test_idle_instances_go_until_there_is_room_again(rig: Rig) -> None:
    """Their processes are told to stop; what is busy or held stays; the report counts them."""
    rig.order("a", *(f"a{number}" for number in range(6)))
    rig.ready()
    rig.order("b", "b1")
    rig.ready()
    rig.hold("b", 1)
    rig.call("a")
    rig.pass_time(2.0)
    rig.machine.used = 0.91  # of 1000 MB; 60 MB above 85 %, and each is taken to use 20
    rig.run(rig.node.relieve)
    assert sum(process.stopped for process in rig.processes) == 3
    rig.machine.used = 0.87
    rig.run(rig.node.relieve)
    assert sum(process.stopped for process in rig.processes) == 4
    rig.machine.used = 0.85
    rig.run(rig.node.relieve)
    rig.machine.used = 0.90
    rig.run(rig.node.relieve)
    assert sum(process.stopped for process in rig.processes) == 4, "not before it is above 90 % again"
    rig.machine.used = 1.0
    rig.run(rig.node.relieve)
    assert {instance.id for instance in rig.instances if instance.live} == {"b1", "a5"}
    rig.run(rig.node.heartbeat)
    assert rig.wire.loads[-1].evicted == 5
