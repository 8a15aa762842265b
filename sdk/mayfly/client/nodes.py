"""Nodes: which there are, and which are to be empty."""

from mayfly.client.connection import Connection
from mayfly_chassis.kv import Bucket
from mayfly_proto import api, names, records, storage


class Nodes(Connection):
    async def nodes(self) -> list[records.NodeLease]:
        """Those that live, by name: what each can have, its labels, and whether it drains."""
        self._check_operator()
        found = await Bucket(self._bus, storage.NODES).load()
        return [records.decode(found[node].value, records.NodeLease) for node in sorted(found)]

    async def drain(self, node: str, why: str = "") -> api.NodeReply:
        """Empty it: nothing new starts there, what is idle ends, calls that run finish.

        Returns when that is settled; the node is empty when its state is. Raises `CallError` (not_found), and
        (unavailable) when no scaler runs.
        """
        request = api.NodeRequest(node=names.check_node(node), why=why)
        return await self._ask(api.DRAIN, request, api.NodeReply, resource=api.NODE)

    async def undrain(self, node: str) -> api.NodeReply:
        """Let instances start there again."""
        request = api.NodeRequest(node=names.check_node(node))
        return await self._ask(api.UNDRAIN, request, api.NodeReply, resource=api.NODE)
