"""A worker node as its routers see it: its lease, whether it has accepted us, and the calls that are with it."""

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, NamedTuple

from mayfly_proto import subjects
from mayfly_proto.records import Client, NodeLease

if TYPE_CHECKING:
    from mayfly_router.call import Call
    from mayfly_router.pool import Pool
    from mayfly_router.share import Share


class Node:
    """Capacity counts only on a `usable` node: its lease holds, and it answered our `Adopt`. One that drains serves
    each version until that has `left` it (see `drains`)."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.invoke = subjects.node_invoke(name).encode()
        self.epoch = 0  # of the lease; 0: no lease
        self.client: Client | None = None
        self.draining = False
        self.adopted = False
        self.usable = False
        self.paused = False  # usable, and asked whether we are still the owner: nothing is sent until it answers
        self.seq = 0  # of the last frame sent
        self.heard = 0.0  # when it last spoke
        self.inflight: dict[int, Call] = {}
        self.unseen: set[int] = set()  # sent, and not yet seen by the node in its last heartbeat
        self.written_off: set[int] = set()  # answered for the node while it was silent
        self.shares: set[Share] = set()
        self.refusing: set[Share] = set()  # of them: where it refused a call, until its next word
        self.left: dict[Pool, float] = {}  # versions that send nothing there any more, for it drains; since when

    def renew(self, lease: NodeLease) -> bool:
        """Take the lease over. True when the node has to be asked again: another life, or another connection."""
        reborn = lease.epoch != self.epoch
        if reborn:
            self.seq = 0
            self.written_off.clear()
        moved = reborn or lease.client != self.client
        self.epoch, self.client, self.draining = lease.epoch, lease.client, lease.draining
        if reborn or not lease.draining:
            self.left.clear()
        self.set_adopted(self.adopted and not moved)
        return moved

    def pause(self) -> None:
        """It is asked anew, and answers in a moment: what it has is counted on all the same."""
        self.adopted = False
        self.paused = True

    def set_adopted(self, adopted: bool) -> None:
        self.paused = False
        self.adopted = adopted
        self.usable = adopted and self.epoch > 0

    def expire(self) -> None:
        """The lease is gone."""
        self.epoch, self.client = 0, None
        self.set_adopted(False)

    def __repr__(self) -> str:
        state = "alive" if self.epoch else "gone"
        if self.usable:
            state = "paused" if self.paused else "draining" if self.draining else "usable"
        return f"<Node {self.name} epoch {self.epoch} {state}, seq {self.seq}, {len(self.inflight)} in flight>"


class Findings(NamedTuple):
    finished: list[int]  # the node is done with them: their `Done` was lost
    lost: list[int]  # the node had not seen them before, and has not now
    unseen: set[int]  # not seen in this report


def reconcile(inflight: Iterable[int], last_seq: int, running: Collection[int], unseen: Collection[int]) -> Findings:
    """Compare our calls in flight with what a node reports: the highest sequence it has seen and what it still runs.

    A frame and a report may cross, so one report without a frame means nothing, and a second one is a reason to ask.
    """
    running = set(running)
    finished, missing = [], set()
    for seq in inflight:
        if seq > last_seq:
            missing.add(seq)
        elif seq not in running:
            finished.append(seq)
    return Findings(finished, sorted(missing.intersection(unseen)), missing)
