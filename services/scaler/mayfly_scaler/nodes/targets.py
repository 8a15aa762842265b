"""Which nodes are to be empty: keys ``node.<node>`` in KV `targets`, mirrored and written.

A key has several writers: any scaler, for an operator, and the leader. What an operator wants stands: the scaler only
makes keys that are not there, and only deletes what it made, at the revision that it knows. One that nobody can read
drains nothing, and is an operator's to write over or delete.
"""

from collections.abc import Callable
from datetime import UTC, datetime

import msgspec
import structlog

from mayfly_chassis.bus import Bus
from mayfly_chassis.errors import KeyExists, WrongRevision
from mayfly_chassis.kv import Bucket
from mayfly_chassis.mirror import Mirror
from mayfly_proto import names, records, results, storage
from mayfly_proto.records import NodeTarget
from mayfly_scaler.nodes.fleet import OPERATOR, SCALER

_ATTEMPTS = 5

_log = structlog.get_logger()


class Targets:
    def __init__(self, bus: Bus, on_change: Callable[[], None]) -> None:
        self.nodes: dict[str, NodeTarget] = {}
        self._bucket = Bucket(bus, storage.TARGETS)
        self._on_change = on_change
        self._mirror = Mirror(bus, storage.TARGETS, self._changed, below=storage.NODE_TARGETS)

    async def start(self) -> None:
        await self._mirror.start()

    async def stop(self) -> None:
        await self._mirror.stop()

    async def drain_for_operator(self, node: str, why: str) -> None:
        """Also one that the scaler drains already: from now on it is the operator's. Raises `BusError`."""
        key, target = storage.node_target_key(node), _target(OPERATOR, why)
        for _ in range(_ATTEMPTS):
            entry = await self._bucket.get(key)
            if entry is not None and (stands := _read(node, entry.value)) is not None and stands.by == OPERATOR:
                return
            try:
                if entry is None:
                    await self._bucket.create(key, target)
                else:
                    await self._bucket.update(key, target, entry.revision)
            except (KeyExists, WrongRevision):
                continue
            return
        raise WrongRevision(f"{key} is written by others all the time")

    async def stored(self, node: str) -> bool:
        """Whether there is a key for it, be it readable or not. Raises `BusError`."""
        if node in self.nodes:
            return True
        if not names.NODE.fullmatch(node):  # * would find another's
            return False
        return await self._bucket.get(storage.node_target_key(node)) is not None

    async def undrain_for_operator(self, node: str) -> None:
        """Whoever drained it; nothing happens when nobody did. Raises `BusError`."""
        await self._bucket.delete(storage.node_target_key(node))

    async def drain(self, node: str, why: str) -> bool:
        """For the scaler; False when somebody else was first. Raises `BusError`."""
        try:
            await self._bucket.create(storage.node_target_key(node), _target(SCALER, why))
        except KeyExists:
            return False
        return True

    async def undrain(self, node: str) -> bool:
        """For the scaler; False when the key is no longer its own. Raises `BusError`."""
        target, revision = self.nodes.get(node), self._mirror.revision(node)
        if target is None or target.by != SCALER or not revision:
            return False
        try:
            await self._bucket.delete(storage.node_target_key(node), revision=revision)
        except WrongRevision:
            return False
        return True

    def _changed(self, node: str, value: bytes | None) -> None:
        target = None if value is None else _read(node, value)
        if target is None:
            self.nodes.pop(node, None)
        else:
            self.nodes[node] = target
        self._on_change()


def _read(node: str, value: bytes) -> NodeTarget | None:
    """None: it says nothing that anybody could keep to."""
    try:
        return records.decode(value, NodeTarget)
    except (msgspec.MsgspecError, ValueError) as error:
        _log.warning("target.malformed", node=node, error=str(error))
        return None


def _target(by: str, why: str) -> bytes:
    return records.encode(NodeTarget(by=by, since=results.rfc3339(datetime.now(UTC)), why=why))
