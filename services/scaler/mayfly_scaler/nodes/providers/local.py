"""Workers of one machine, which `mayfly up` starts and stops: they are its processes, and outlive any scaler."""

import msgspec

from mayfly_chassis.bus import Bus
from mayfly_chassis.errors import BusError
from mayfly_proto import api, errors, subjects
from mayfly_scaler.nodes.drains import Numbering
from mayfly_scaler.nodes.providers.provider import ProviderError

_ANSWER_S = 5.0


class LocalNodes:
    numbering = Numbering("n")
    own_processors = False
    from_the_end = False

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def list(self) -> frozenset[str]:
        return await self._ask(api.LIST)

    async def add(self, node: str) -> None:
        await self._ask(api.ADD, node)

    async def remove(self, node: str) -> None:
        """It goes on being listed until its process has ended."""
        await self._ask(api.REMOVE, node)

    async def close(self) -> None:
        """The connection is the service's own."""

    async def _ask(self, verb: str, node: str = "") -> frozenset[str]:
        request = api.encode(api.NodeRequest(node=node))
        try:
            reply = await self._bus.request(subjects.local_nodes(verb), request, timeout_s=_ANSWER_S)
            if error := errors.from_reply(reply.headers, reply.payload):
                raise ProviderError(f"mayfly up refuses to {verb} {node}: {error}")
            return frozenset(api.decode(reply.payload, api.LocalNodes).nodes)
        except (BusError, msgspec.MsgspecError) as error:
            raise ProviderError(f"mayfly up does not answer: {error}") from error
