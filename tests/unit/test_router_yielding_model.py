"""The world of `test_router_model` while its cluster is full: shares come and go.

Besides what holds there, a call that runs in an instance that is to go ends as if nothing had been said.
"""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from mayfly_proto.records import Shares
from mayfly_router.function import Plan, Stopping
from tests.unit.test_router_model import LIMIT, NODES, Worker, World


class FullWorld(World):
    def __init__(self) -> None:
        super().__init__()
        self.cut_off: set[int] = set()

    @rule(share=st.none() | st.integers(0, LIMIT + 1))
    def shares_come(self, share: int | None) -> None:
        self.state.allotments.hear(Shares(epoch=1, shares={} if share is None else {"f": share}), self.now)
        self.dispatch.trim(self.function, self.now)
        self.dispatch.touch("f")
        self.settle()

    def act(self, plan: Plan) -> None:
        assert all(stopping.number > 0 for stopping in plan.stops), "all of them would be too many"
        super().act(plan)

    def take(self, worker: Worker) -> None:
        running = set(worker.running)
        stop = worker.frames[0] if isinstance(worker.frames[0], Stopping) else None
        super().take(worker)
        if stop is not None:
            self.cut_off |= running.difference(worker.running)

    @precondition(lambda self: not self.unsettled() and not any(self.workers[name].draining for name in NODES))
    @rule(share=st.integers(1, LIMIT))
    def shares_come_at_rest(self, share: int) -> None:
        """With no call, and every word heard, what is above the share goes, and not one more."""
        self.shares_come(None)
        self.now += 4.0  # what was lost is said again
        for name in NODES:
            self.write_route(self.workers[name])
            self.heartbeat(name)  # a node that refused a call is trusted again
        self.all_is_heard()
        before = sum(len(self.workers[name].idle) for name in NODES)
        self.shares_come(share)
        self.all_is_heard()
        assert sum(len(self.workers[name].idle) for name in NODES) == min(share, before)

    def all_is_heard(self) -> None:
        for worker in self.workers.values():
            while worker.frames:
                self.take(worker)
        while self.feed:
            self.route_arrives()

    @invariant()
    def no_call_is_cut_off(self) -> None:
        assert not self.cut_off

    @invariant()
    def what_gives_way_is_counted(self) -> None:
        for share in self.pool.shares.values():
            assert 0 <= share.told <= share.yielding <= len(share.instances)
        assert self.pool.owed >= 0

    def teardown(self) -> None:
        if self.workers:
            self.shares_come(None)
        super().teardown()


@pytest.mark.invariant("S29")
class TestFullWorld(FullWorld.TestCase):
    settings = settings(max_examples=80, stateful_step_count=60, deadline=None)
