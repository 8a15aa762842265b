"""Parts of a router for tests that need neither a loop nor a connection."""

from typing import Any

from mayfly_proto.records import Client, NodeLease, Package, Route, VersionSpec
from mayfly_router.backlog import Backlog
from mayfly_router.call import Call
from mayfly_router.function import Function
from mayfly_router.nodes import Node


def spec(version: int = 1, **fields: Any) -> VersionSpec:
    package = Package(sha256="0", size=1, format="py", filename="f.py")
    return VersionSpec(
        name="f", version=version, runtime="python", handler="f:f", package=package, created="", **fields
    )


def node(name: str = "n1", epoch: int = 1) -> Node:
    made = Node(name)
    made.renew(NodeLease(node=name, epoch=epoch, client=Client(server="s", id=epoch), memory_mb=1, cores=1))
    made.set_adopted(True)
    return made


def route(*instances: str, epoch: int = 1, concurrency: int = 1) -> Route:
    return Route(epoch=epoch, instances=list(instances), slots=len(instances) * concurrency)


def call(name: str, *, arrived: float = 0.0, deadline: float = 10.0, pinned: int = 0, payload: bytes = b"") -> Call:
    made = Call(name, "_INBOX.x", None, payload, arrived, pinned)
    made.deadline = deadline
    return made


def function_of(limit: int, *versions: VersionSpec) -> Function:
    function = Function("f", Backlog(1000))
    specs = {version.version: version for version in versions or (spec(max_instances=limit),)}
    function.apply(specs, max(specs), 0)
    return function
