"""What a node's report says about our calls."""

from typing import cast

from hypothesis import given
from hypothesis import strategies as st

from mayfly_proto.records import Client, NodeLease
from mayfly_router.nodes import Node, reconcile
from mayfly_router.pool import Pool


def test_seen_and_not_running_is_finished() -> None:
    """A call that the node saw and does not run any more is over, though its `Done` never came."""
    assert reconcile([1, 2, 3], 3, [2], set()).finished == [1, 3]


def test_one_report_without_a_frame_means_nothing() -> None:
    """Frame and report may cross; only a second report without it is suspicious."""
    first = reconcile([4, 5], 4, [4], set())
    assert (first.lost, first.unseen) == ([], {5})
    assert reconcile([4, 5], 4, [4], first.unseen).lost == [5]
    assert reconcile([4, 5], 5, [4, 5], first.unseen).lost == []


def test_adopted_calls_have_sequences_below_zero() -> None:
    """A call taken over from another router is over when the node does not run it, whatever it has seen of us."""
    assert reconcile([-1, -2], 0, [-2], set()).finished == [-1]


@given(st.sets(st.integers(-50, 50)), st.integers(0, 50), st.sets(st.integers(-50, 50)), st.sets(st.integers(1, 50)))
def test_every_call_is_judged_once(inflight: set[int], last: int, running: set[int], unseen: set[int]) -> None:
    """No call is both finished and lost, and what runs is neither."""
    findings = reconcile(inflight, last, running, unseen)
    judged = findings.finished + findings.lost
    assert len(judged) == len(set(judged))
    assert set(judged) <= inflight
    assert not [seq for seq in findings.finished if seq in running]
    assert findings.unseen == {seq for seq in inflight if seq > last}


def lease(epoch: int, client: int, *, draining: bool = False) -> NodeLease:
    return NodeLease(
        node="n1", epoch=epoch, client=Client(server="s", id=client), memory_mb=1, cores=1, draining=draining
    )


def test_a_node_is_asked_again_in_another_life_or_on_another_connection() -> None:
    """A renewed lease changes nothing; a new epoch or a new connection makes the node unusable until it answers."""
    node = Node("n1")
    assert node.renew(lease(1, 1))
    node.set_adopted(True)
    assert not node.renew(lease(1, 1))
    assert node.usable
    assert node.renew(lease(1, 2))
    assert not node.usable
    node.set_adopted(True)
    node.seq = 7
    assert node.renew(lease(2, 2))
    assert node.seq == 0


def test_a_node_that_drains_serves_on_until_it_is_left() -> None:
    """It can be used while a version has not left it; who has left it comes back only when it drains no longer."""
    node, pool = Node("n1"), cast(Pool, object())
    node.renew(lease(1, 1))
    node.set_adopted(True)
    node.renew(lease(1, 1, draining=True))
    assert node.usable
    assert repr(node) == "<Node n1 epoch 1 draining, seq 0, 0 in flight>"
    node.left[pool] = 1.0
    node.renew(lease(1, 1, draining=True))
    assert pool in node.left
    node.renew(lease(1, 1))
    assert not node.left
