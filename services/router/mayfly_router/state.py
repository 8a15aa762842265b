"""What one router knows; its parts share it. All of it is memory: NATS and the workers can tell it all again."""

from collections.abc import Callable
from time import monotonic

import msgspec

from mayfly_proto.records import FunctionLoad, RouterLoad, RouterMembers
from mayfly_router.backlog import Backlog
from mayfly_router.function import Function
from mayfly_router.loads import function_load
from mayfly_router.nodes import Node


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
    def __init__(self, router: str, backlog_bytes: int, clock: Callable[[], float] = monotonic) -> None:
        self.router = router
        self.clock = clock
        self.members = RouterMembers(epoch=0, members={})
        self.functions: dict[str, Function] = {}  # those that this router owns
        self.leaving: dict[str, Function] = {}  # another router's, and still subscribed
        self.nodes: dict[str, Node] = {}
        self.restated: set[str] = set()  # functions of which nodes may have to keep something else now: see `holds`
        self.backlog = Backlog(backlog_bytes)

    def node(self, name: str) -> Node:
        node = self.nodes.get(name)
        if node is None:
            node = self.nodes[name] = Node(name)
        return node

    def known(self, name: str) -> Function | None:
        """A function of ours, or one that was until a moment ago: outcomes for it still come here."""
        return self.functions.get(name) or self.leaving.get(name)

    def load(self) -> RouterLoad:
        now = self.clock()
        functions = {}
        for name, function in self.functions.items():
            idle_gaps, further_gaps = function.gaps.report()
            load = function_load(function, now)
            functions[name] = msgspec.structs.replace(load, idle_gaps=idle_gaps, further_gaps=further_gaps)
        busy = {name: load for name, load in functions.items() if load != FunctionLoad()}
        return RouterLoad(router=self.router, epoch=self.members.epoch, functions=busy)

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
        return f"<State {self.router} epoch {self.members.epoch}: {self.functions}, {self.nodes}>"


def _node(node: Node) -> NodeState:
    return NodeState(
        epoch=node.epoch, usable=node.usable, draining=node.draining, seq=node.seq, in_flight=len(node.inflight)
    )
