"""Which nodes are to be empty: keys ``node.<node>`` in KV `targets`, mirrored and written.

A key has several writers: any scaler, for an operator, and the leader. What an operator wants stands: the scaler only
makes keys that are not there, and only deletes what it made, at the revision that it knows.
"""

from collections.abc import Callable
from datetime import UTC, datetime

import msgspec

from mayfly_chassis.bus import Bus
from mayfly_chassis.errors import KeyExists, WrongRevision
from mayfly_chassis.kv import Bucket
from mayfly_chassis.mirror import Mirror
from mayfly_proto import records, results, storage
from mayfly_proto.records import NodeTarget
from mayfly_scaler.nodes.fleet import OPERATOR, SCALER

_ATTEMPTS = 5


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
            if entry is not None and _is_operators(entry.value):
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

    async def undrain_for_operator(self, node: str) -> bool:
        """Whoever drained it, and whether or not this scaler has heard of it; False when nobody had. Raises
        `BusError`."""
        key = storage.node_target_key(node)
        if await self._bucket.get(key) is None:
            return False
        await self._bucket.delete(key)
        return True

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
        if value is None:
            self.nodes.pop(node, None)
        else:
            self.nodes[node] = records.decode(value, NodeTarget)
        self._on_change()


def _is_operators(value: bytes) -> bool:
    """Not what nobody can read: that is written over."""
    try:
        return records.decode(value, NodeTarget).by == OPERATOR
    except msgspec.MsgspecError:
        return False


def _target(by: str, why: str) -> bytes:
    return records.encode(NodeTarget(by=by, since=results.rfc3339(datetime.now(UTC)), why=why))
