"""Who runs what must run once: a key in KV, created by the one who begins and holding what came of it.

Two things are claimed so. A call with an idempotency key: one that is repeated gets the first one's result, also while
that still runs. And the tick of a schedule: nats-server makes one message of each, but after a restart or a change of
leaders it may make the last one again. A claim is its own invocation's, however often that is delivered.
"""

import hashlib
import time

import msgspec
import structlog

from mayfly_chassis.bus import Bus
from mayfly_chassis.errors import KeyExists, WrongRevision
from mayfly_chassis.kv import Bucket
from mayfly_proto import records, storage
from mayfly_proto.records import IdempotencyRecord

LARGEST = 5 * 1024 * 1024  # bytes of a result: a larger one, as base64 in JSON, is no message any more, and is not kept
CLAIMED_S = 86_400  # that a claim is kept at least: whoever runs it replaces or drops it when it is done
UNTIL_DONE = 1e12  # Unix time: the stream has the call, and somebody will run it


_log = structlog.get_logger()


class Claims:
    """Every method raises `BusError`."""

    def __init__(self, bus: Bus) -> None:
        self._bucket = Bucket(bus, storage.IDEMPOTENCY)

    async def claim(
        self, key: str, invocation: str, *, ttl_s: int, until: float = UNTIL_DONE, reply: str = ""
    ) -> IdempotencyRecord | None:
        """None: it is ours to run, until that Unix time. Else the claim of the one who was first, with its result once
        that is there."""
        ours = IdempotencyRecord(invocation=invocation, until=until, replies=[reply] if reply else [])
        value = records.encode(ours)
        ttl_s = max(ttl_s, CLAIMED_S)
        while True:
            try:
                await self._bucket.create(key, value, ttl_s=ttl_s)
            except KeyExists:
                entry = await self._bucket.get(key)
            else:
                return None
            if entry is None:
                continue
            found = _decoded(key, entry.value)
            if found.headers is not None:
                return found
            if found.invocation == invocation:
                return None
            if found.until > time.time():
                return found
            try:
                await self._bucket.update(key, value, entry.revision, ttl_s=ttl_s)
            except WrongRevision:
                continue
            return None

    async def read(self, key: str) -> IdempotencyRecord | None:
        entry = await self._bucket.get(key)
        return None if entry is None else _decoded(key, entry.value)

    async def keep(self, key: str, record: IdempotencyRecord, ttl_s: int) -> None:
        await self._bucket.put(key, records.encode(record), ttl_s=ttl_s)

    async def drop(self, key: str) -> None:
        """It came to nothing: the next one is the first again."""
        await self._bucket.purge(key)


def _decoded(key: str, value: bytes) -> IdempotencyRecord:
    """What cannot be read is nobody's claim."""
    try:
        return records.decode(value, IdempotencyRecord)
    except (msgspec.MsgspecError, ValueError):
        _log.warning("claim.unreadable", key=key)
        return IdempotencyRecord(invocation="")


def key(function: str, identity: str) -> str:
    """Of the claim: what callers choose may be anything."""
    return storage.idempotency_key(function, digest(identity))


def digest(identity: str) -> str:
    return hashlib.blake2b(identity.encode(), digest_size=16).hexdigest()
