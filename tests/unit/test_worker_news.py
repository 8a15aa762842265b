"""When a node does not wait for its next heartbeat to say how it is."""

from collections.abc import Iterator

import pytest

from tests.unit.worker_rig import Rig


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig(memory_mb=1000)
    yield rig
    rig.close()


def test_room_on_a_full_node_is_news_and_on_one_with_room_it_is_not(rig: Rig) -> None:
    """Somebody may wait for memory only where nearly all of it is promised; a heartbeat says all there is to say."""
    rig.order("a", *(f"a{n}" for n in range(8)))
    rig.ready()
    rig.order("b", "b1", "b2")
    rig.ready()
    rig.stop("a", 1)
    assert not rig.node.news.is_set(), "its process is still there"
    rig.end_told()
    assert rig.node.news.is_set()
    rig.node.heartbeat()
    assert not rig.node.news.is_set()
    assert rig.wire.loads[-1].memory_used_mb == 900
    rig.stop("a", 1)
    rig.end_told()
    assert not rig.node.news.is_set()
