"""What people ask of nodes: ``mayfly.api.node.drain`` and ``undrain``. Any scaler answers; the leader sees to it."""

from mayfly_chassis.errors import BusError
from mayfly_chassis.micro import Micro, Request
from mayfly_proto import api, states, subjects
from mayfly_proto.errors import CallError, ErrorType
from mayfly_scaler.nodes.targets import Targets
from mayfly_scaler.reports import Reports

COMPONENT = "scaler"


class NodeRequests:
    def __init__(self, targets: Targets, reports: Reports) -> None:
        self._targets = targets
        self._reports = reports

    async def listen(self, micro: Micro) -> None:
        for verb, handler in ((api.DRAIN, self.drain), (api.UNDRAIN, self.undrain)):
            subject = subjects.api(api.NODE, verb)
            await micro.endpoint(f"node-{verb}", subject, handler, queue=subjects.SCALER_QUEUE)

    async def drain(self, request: Request) -> bytes:
        """It is written down when this returns: the node becomes empty whatever happens to scalers."""
        wanted = request.json(api.NodeRequest)
        self._check(wanted.node, known=wanted.node in self._reports.leases)
        try:
            await self._targets.drain_for_operator(wanted.node, wanted.why)
        except BusError as error:
            raise _unavailable(error) from error
        return self._reply(wanted.node, draining=True)

    async def undrain(self, request: Request) -> bytes:
        """Also of a node that is away: it will take work when it comes back. What this scaler has heard of targets does
        not decide it: another may have written one just now."""
        wanted = request.json(api.NodeRequest)
        try:
            known = wanted.node in self._reports.leases or await self._targets.stored(wanted.node)
            self._check(wanted.node, known=known)
            await self._targets.undrain_for_operator(wanted.node)
        except BusError as error:
            raise _unavailable(error) from error
        return self._reply(wanted.node, draining=False)

    def _check(self, node: str, *, known: bool) -> None:
        if not known:
            raise CallError(ErrorType.NOT_FOUND, f"no node is called {node!r}", component=COMPONENT)

    def _reply(self, node: str, *, draining: bool) -> bytes:
        heard = self._reports.nodes.get(node)
        state = heard.load.state if heard else states.Node.UP.value
        if node not in self._reports.leases:
            state = states.Node.EMPTY.value
        return api.encode(api.NodeReply(node=node, state=state, draining=draining))


def _unavailable(error: BusError) -> CallError:
    return CallError(ErrorType.UNAVAILABLE, f"the change could not be stored: {error}", component=COMPONENT)
