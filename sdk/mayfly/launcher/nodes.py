"""The workers of this machine, as many as the scaler asks for: ``mayfly.local.nodes.list``, ``add`` and ``remove``.

They are processes of `mayfly up` like all others, so a scaler that is killed takes none of them along.
"""

import asyncio
import re
import shutil
from collections.abc import Callable

from mayfly.launcher.directory import DataDirectory
from mayfly.launcher.supervisor import Service, Supervisor
from mayfly_chassis.micro import Micro, Request
from mayfly_proto import api, subjects
from mayfly_proto.errors import CallError, ErrorType

COMPONENT = "up"

_NAME = re.compile("n[1-9][0-9]{0,5}")


class LocalNodes:
    """``make`` gives the service that a node of this name is."""

    def __init__(
        self,
        supervisor: Supervisor,
        directory: DataDirectory,
        tasks: asyncio.TaskGroup,
        make: Callable[[str], Service],
        most: int,
    ) -> None:
        self._supervisor = supervisor
        self._directory = directory
        self._tasks = tasks
        self._make = make
        self._most = most
        self._nodes: dict[str, Service] = {}

    def begin_with(self, node: str) -> Service:
        """One of those that the platform starts with."""
        service = self._nodes[node] = self._make(node)
        self._supervisor.add(service, self._tasks)
        return service

    async def listen(self, micro: Micro) -> None:
        for verb, handler in ((api.LIST, self._list), (api.ADD, self._add), (api.REMOVE, self._remove)):
            await micro.endpoint(f"nodes-{verb}", subjects.local_nodes(verb), handler)

    async def _list(self, _request: Request) -> bytes:
        return api.encode(api.LocalNodes(nodes=list(self._nodes)))

    async def _add(self, request: Request) -> bytes:
        node = _named(request)
        known = self._nodes.get(node)
        if known is not None and known.stopping:
            raise CallError(ErrorType.CONFLICT, f"{node} is on its way out", component=COMPONENT)
        if known is None:
            if len(self._nodes) >= self._most:
                raise CallError(ErrorType.CONFLICT, f"there are {self._most} nodes, the most", component=COMPONENT)
            self.begin_with(node).vital = False
        return await self._list(request)

    async def _remove(self, request: Request) -> bytes:
        """It is in the list until its process has ended: that may take as long as its last calls."""
        node = _named(request)
        known = self._nodes.get(node)
        if known is not None and not known.stopping:
            self._tasks.create_task(self._let_go(node, known), name=f"remove {node}")
            await asyncio.sleep(0)  # by now it stops
        return await self._list(request)

    async def _let_go(self, node: str, service: Service) -> None:
        await self._supervisor.remove(service)
        await asyncio.to_thread(shutil.rmtree, self._directory.node(node), ignore_errors=True)
        del self._nodes[node]


def _named(request: Request) -> str:
    node = request.json(api.NodeRequest).node
    if not _NAME.fullmatch(node):
        raise CallError(ErrorType.BAD_REQUEST, f"{node!r} is no name of a node here: n1, n2 ...", component=COMPONENT)
    return node
