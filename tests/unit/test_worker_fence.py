"""The fence: which router may give a node work."""

from mayfly_proto import ownership
from mayfly_worker.fence import Fence

FUNCTIONS = [f"f{n}" for n in range(50)]


def test_new_node_takes_work_from_any_router() -> None:
    """Before anybody has spoken there is nothing to refuse by."""
    assert Fence().admits("r1", 0, "hello")


def test_router_of_an_older_epoch_keeps_only_what_is_its_own_by_the_newer_members() -> None:
    """Two routers never fill the same slots: the one that has not noticed is refused for what it lost."""
    fence = Fence()
    fence.renew(7, ["r1", "r2"])
    for function in FUNCTIONS:
        assert fence.admits("r1", 6, function) == (ownership.owner(function, ["r1", "r2"]) == "r1")
        assert not fence.admits("r3", 6, function)
        assert fence.admits("r1", 7, function)


def test_announcements_out_of_order_do_not_bring_old_members_back() -> None:
    """The highest epoch counts, whichever comes last."""
    fence = Fence()
    fence.renew(7, ["r2"])
    fence.renew(6, ["r1"])
    assert (fence.epoch, fence.members) == (7, {"r2"})
    assert not fence.admits("r1", 6, "hello")
    assert fence.owner("hello") == "r2"


def test_without_members_there_is_no_owner() -> None:
    """Failures then go to the router that ordered."""
    assert Fence().owner("hello") is None
