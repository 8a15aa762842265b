"""What one router knows; its parts share it. All of it is memory: NATS and the workers can tell it all again."""

from collections.abc import Callable
from time import monotonic

import msgspec

from mayfly_proto.records import FunctionLoad, RouterMembers
from mayfly_router.allotment import Allotments
from mayfly_router.backlog import Backlog
from mayfly_router.function import Function
from mayfly_router.loads import Loads, function_load
from mayfly_router.nodes import Node
from mayfly_router.pool import Pool
from mayfly_router.rates import Rates
from mayfly_router.shortage import Shortage


class NodeState(msgspec.Struct, frozen=True, kw_only=True):
    epoch: int
    usable: bool
    draining: bool
    seq: int
    in_flight: int


class RouterState(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to ``mayfly.router.<router>.state``."""

    router: str
    epoch: int
    members: list[str]
    queued_bytes: int
    nodes: dict[str, NodeState]
    functions: dict[str, FunctionLoad]


class State:
    """``make(name)`` makes a function that is this router's and was not asked for before; None: it is another's."""

    def __init__(self, router: str, backlog_bytes: int, clock: Callable[[], float] = monotonic) -> None:
        self.router = router
        self.clock = clock
        self.members = RouterMembers(epoch=0, members={})
        self.functions: dict[str, Function] = {}  # those that this router owns
        self.leaving: dict[str, Function] = {}  # another router's, and still subscribed
        self.awake: dict[Function, None] = {}  # those to be looked at, in the order in which they woke
        self.loads = Loads()
        self.nodes: dict[str, Node] = {}
        self.restated: set[str] = set()  # functions of which nodes may have to keep something else now: see `holds`
        self.coming: dict[str, set[Pool]] = {}  # node → versions of which instances start there, or did a moment ago
        self.backlog = Backlog(backlog_bytes)
        self.allotments = Allotments()
        self.shortage = Shortage()
        self.rates: set[Rates] = set()  # those that remember callers
        self.make: Callable[[str], Function | None] = self.functions.get

    def node(self, name: str) -> Node:
        node = self.nodes.get(name)
        if node is None:
            node = self.nodes[name] = Node(name)
        return node

    def owned(self, name: str) -> Function | None:
        """A function of ours, made by now."""
        return self.functions.get(name) or self.make(name)

    def known(self, name: str) -> Function | None:
        """A function of ours, or one that was until a moment ago: outcomes for it still come here."""
        return self.functions.get(name) or self.leaving.get(name)

    def wake(self, function: Function) -> None:
        """Something happens to it. What goes through functions by time goes through those that are awake: a few,
        however many there are."""
        self.awake[function] = None

    def expect(self, pool: Pool, node: str) -> None:
        """Instances of this version start there: the node's reports are looked at for them."""
        self.coming.setdefault(node, set()).add(pool)

    def look_at(self, function: Function, now: float) -> None:
        """Find out what there is to tell of a function that is awake. It falls asleep when nothing is under way: what
        is told of it now stands until it wakes."""
        if not function.left:
            self.loads.tell(function.name, function_load(function, now, function.gaps.report()))
        elif function.name not in self.functions:
            self.loads.drop(function.name)
        if function.left or function.quiet:
            del self.awake[function]

    def report(self) -> RouterState:
        return RouterState(
            router=self.router,
            epoch=self.members.epoch,
            members=sorted(self.members.members),
            queued_bytes=self.backlog.bytes,
            nodes={name: _node(node) for name, node in self.nodes.items()},
            functions={name: function_load(function, self.clock()) for name, function in self.functions.items()},
        )

    def __repr__(self) -> str:
        return (
            f"<State {self.router} epoch {self.members.epoch}: {len(self.functions)} functions, awake "
            f"{list(self.awake)}, {list(self.nodes.values())}>"
        )


def _node(node: Node) -> NodeState:
    return NodeState(
        epoch=node.epoch,
        usable=node.usable and not node.paused,
        draining=node.draining,
        seq=node.seq,
        in_flight=len(node.inflight),
    )
