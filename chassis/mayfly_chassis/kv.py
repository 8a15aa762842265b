"""A NATS KV bucket, read by direct get and written by acknowledged publish: no consumer, no stream info.

A deleted key leaves a tombstone, an expired one a marker in buckets that have limit markers. To readers both are
nothing, and `Bucket.create` writes over them (nats-py's would fail until the marker itself has expired).
"""

from dataclasses import dataclass

from mayfly_chassis import jetstream
from mayfly_chassis.bus import Bus
from mayfly_chassis.errors import JetStreamError, KeyExists, TooMany, WrongRevision
from mayfly_proto import headers, subjects

TOMBSTONE_TTL_S = 3600  # so that keys that come and go (nodes, instances) leave nothing for good

_CREATE_ATTEMPTS = 5  # each is lost only to somebody who deletes the key again at the same moment


@dataclass(frozen=True, slots=True)
class Entry:
    value: bytes
    revision: int


class Bucket:
    """Every method raises `NoResponders` when there is no such bucket, `RequestTimeout`, `JetStreamError`."""

    def __init__(self, bus: Bus, name: str) -> None:
        self.name = name
        self._bus = bus
        self._stream = subjects.kv_stream(name)

    async def get(self, key: str) -> Entry | None:
        message = await jetstream.last(self._bus, self._stream, subjects.kv(self.name, key))
        if message is None or is_gone(message.headers):
            return None
        return Entry(message.payload, message.sequence)

    async def put(self, key: str, value: bytes, *, ttl_s: int | None = None) -> int:
        """Returns the revision. With ``ttl_s`` the key is gone so many seconds later, unless it is put again."""
        return await self._write(key, value, ttl_s=ttl_s)

    async def create(self, key: str, value: bytes, *, ttl_s: int | None = None) -> int:
        """Returns the revision; a deleted or expired key may be created again. Raises `KeyExists`."""
        revision = 0
        for _ in range(_CREATE_ATTEMPTS):
            try:
                return await self.update(key, value, revision, ttl_s=ttl_s)
            except WrongRevision:
                message = await jetstream.last(self._bus, self._stream, subjects.kv(self.name, key))
                if message is not None and not is_gone(message.headers):
                    break
                revision = 0 if message is None else message.sequence
        raise KeyExists(f"{self.name}: {key} exists")

    async def update(self, key: str, value: bytes, revision: int, *, ttl_s: int | None = None) -> int:
        """Replace exactly that revision; returns the new one. Raises `WrongRevision`."""
        return await self._replace(key, value, {}, revision, ttl_s)

    async def delete(
        self, key: str, *, revision: int | None = None, tombstone_ttl_s: int | None = TOMBSTONE_TTL_S
    ) -> None:
        """``revision``: exactly this one, else `WrongRevision`. ``tombstone_ttl_s`` None: for a bucket that may have
        no TTLs."""
        await self._replace(key, b"", {"KV-Operation": "DEL"}, revision, tombstone_ttl_s)

    async def purge(self, key: str) -> None:
        """Delete, and remove the key's history with it."""
        await self._write(key, b"", {"KV-Operation": "PURGE", "Nats-Rollup": "sub"}, ttl_s=TOMBSTONE_TTL_S)

    async def load(self, prefix: str = "") -> dict[str, Entry]:
        """All keys, or those below a prefix of whole tokens such as ``n1.``"""
        entries: dict[str, Entry] = {}
        start = len(subjects.kv(self.name, ""))

        def keep(message: jetstream.Stored) -> None:
            key = message.subject[start:]
            if is_gone(message.headers):
                entries.pop(key, None)
            else:
                entries[key] = Entry(message.payload, message.sequence)

        await jetstream.every(self._bus, self._stream, subjects.kv(self.name, f"{prefix}>"), keep)
        return entries

    async def keys(self, prefix: str = "", *, limit: int) -> list[str]:
        """Those that begin with ``prefix``, in order. Raises `TooMany` when more than ``limit`` do."""
        found: set[str] = set()
        start = len(subjects.kv(self.name, ""))

        def keep(message: jetstream.Stored) -> None:
            key = message.subject[start:]
            if is_gone(message.headers):
                found.discard(key)
            elif key.startswith(prefix):
                found.add(key)
                if len(found) > limit:
                    raise TooMany(f"{self.name} has more than {limit} keys that begin with {prefix!r}")

        tokens = prefix[: prefix.rfind(".") + 1]
        await jetstream.every(self._bus, self._stream, subjects.kv(self.name, f"{tokens}>"), keep)
        return sorted(found)

    async def _replace(
        self, key: str, value: bytes, fields: dict[str, str], revision: int | None, ttl_s: int | None
    ) -> int:
        if revision is not None:
            fields = fields | {"Nats-Expected-Last-Subject-Sequence": str(revision)}
        try:
            return await self._write(key, value, fields, ttl_s=ttl_s)
        except JetStreamError as error:
            if error.code in jetstream.WRONG_LAST_SEQUENCE:
                raise WrongRevision(f"{self.name}: {key} is not at revision {revision}", error.code) from error
            raise

    async def _write(
        self, key: str, value: bytes, fields: dict[str, str] | None = None, *, ttl_s: int | None = None
    ) -> int:
        fields = dict(fields or {})
        if ttl_s is not None:
            fields["Nats-TTL"] = str(ttl_s)
        raw = headers.block(fields) if fields else None
        return await jetstream.publish(self._bus, subjects.kv(self.name, key), value, headers=raw)


def is_gone(raw: bytes | None) -> bool:
    """Whether these are the headers of a tombstone or of an expiry marker."""
    return raw is not None and (b"\r\nKV-Operation:" in raw or b"\r\nNats-Marker-Reason:" in raw)
