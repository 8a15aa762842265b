"""An in-memory copy of a KV bucket.

The stream of a mirrored bucket republishes every change to a core subject; `Mirror` subscribes to that feed first and
then takes a snapshot by batched direct get. Both may speak of the same key in any order, so the higher revision wins,
and a key whose deletion the feed reported while the snapshot was under way stays deleted.

Core messages can be lost (a reconnect, a server that restarts, a key removed by a stream purge), so a new snapshot is
taken after every reconnect and once a minute. It replaces the copy, whatever the revisions were: a bucket that was made
anew counts from 1 again. Each difference is reported like a change.

nats-py's ``kv.watch`` was rejected: it needs a consumer for each watcher and after a server restart it is blind for 10
to 20 s.
"""

import asyncio
from collections.abc import Callable, Iterator

import structlog

from mayfly_chassis import jetstream
from mayfly_chassis.bus import Bus, Subscription
from mayfly_chassis.errors import BusError, RequestTimeout
from mayfly_chassis.kv import Entry, is_gone
from mayfly_proto import headers, subjects

SNAPSHOT_INTERVAL_S = 60.0
START_TIMEOUT_S = 30.0  # for the bucket to be there

_RETRY_S = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)

log = structlog.get_logger()


class Mirror:
    """``on_change(key, value or None)`` is called synchronously, for each key in the order of its revisions.

    ``below``: only keys that begin so, whole tokens with a dot at the end; they are named without it.
    """

    def __init__(
        self,
        bus: Bus,
        bucket: str,
        on_change: Callable[[str, bytes | None], None] | None = None,
        *,
        below: str = "",
        snapshot_interval_s: float = SNAPSHOT_INTERVAL_S,
    ) -> None:
        self.bucket = bucket
        self._below = below
        self._snapshot_interval_s = snapshot_interval_s
        self._bus = bus
        self._on_change = on_change
        self._entries: dict[str, Entry] = {}
        self._fresh: _Snapshot | None = None
        self._snapshot_wanted = asyncio.Event()
        self._feed: Subscription | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Loaded on return: ``on_change`` was called for every entry. Raises `RequestTimeout` when no bucket comes."""
        self._feed = await self._bus.subscribe(f"{subjects.kv_feed(self.bucket)}{self._below}>", self._changed)
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await self._load_patiently()
        except TimeoutError as error:
            raise RequestTimeout(f"bucket {self.bucket}: not there after {START_TIMEOUT_S} s") from error
        self._bus.on_reconnect(self._snapshot_wanted.set)
        self._task = asyncio.get_running_loop().create_task(self._keep_true(), name=f"mirror.{self.bucket}")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        if self._feed is not None:
            await self._feed.unsubscribe()

    def get(self, key: str) -> bytes | None:
        entry = self._entries.get(key)
        return None if entry is None else entry.value

    def revision(self, key: str) -> int:
        """The revision of a key; 0 when there is no such key."""
        entry = self._entries.get(key)
        return 0 if entry is None else entry.revision

    def items(self) -> Iterator[tuple[str, bytes]]:
        return ((key, entry.value) for key, entry in self._entries.items())

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: str) -> bool:
        return key in self._entries

    def __repr__(self) -> str:
        return f"<Mirror of {self.bucket}: {len(self)} keys>"

    def _changed(self, subject: bytes, _reply: bytes, raw: bytes | None, payload: bytes) -> None:
        revision = int(headers.find(raw or b"", b"Nats-Sequence") or 0)
        key = subject.decode()[len(subjects.kv_feed(self.bucket)) + len(self._below) :]
        entry = None if is_gone(raw) else Entry(payload, revision)
        if self._fresh is not None:
            self._fresh.add(key, revision, entry)
        known = self._entries.get(key)
        if known is None or known.revision < revision:
            self._set(key, entry)

    def _set(self, key: str, entry: Entry | None) -> None:
        known = self._entries.get(key)
        if known == entry:
            return
        if entry is None:
            del self._entries[key]
        else:
            self._entries[key] = entry
        if self._on_change is not None:
            try:
                self._on_change(key, None if entry is None else entry.value)
            except Exception:
                log.exception("mirror.callback_failed", bucket=self.bucket, key=key)

    async def _keep_true(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._snapshot_interval_s):
                    await self._snapshot_wanted.wait()
            except TimeoutError:
                pass
            self._snapshot_wanted.clear()
            try:
                await self._load_patiently()
            except Exception:
                log.exception("mirror.snapshot_failed", bucket=self.bucket)

    async def _load_patiently(self) -> None:
        attempt = 0
        while True:
            try:
                await self._load()
            except BusError as error:
                if attempt == 0:
                    log.warning("mirror.not_loaded", bucket=self.bucket, error=str(error))
                await asyncio.sleep(_RETRY_S[min(attempt, len(_RETRY_S) - 1)])
                attempt += 1
            else:
                return

    async def _load(self) -> None:
        start = len(subjects.kv(self.bucket, self._below))
        fresh = self._fresh = _Snapshot()

        def keep(message: jetstream.Stored) -> None:
            entry = None if is_gone(message.headers) else Entry(message.payload, message.sequence)
            fresh.add(message.subject[start:], message.sequence, entry)

        try:
            every = subjects.kv(self.bucket, f"{self._below}>")
            await jetstream.every(self._bus, subjects.kv_stream(self.bucket), every, keep)
        finally:
            self._fresh = None
        for key in self._entries.keys() - fresh.entries.keys():
            self._set(key, None)
        for key, entry in fresh.entries.items():
            self._set(key, entry)


class _Snapshot:
    """What a snapshot under way and the feed say together; the highest revision of a key wins."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self._revisions: dict[str, int] = {}

    def add(self, key: str, revision: int, entry: Entry | None) -> None:
        if self._revisions.get(key, 0) >= revision:
            return
        self._revisions[key] = revision
        if entry is None:
            self.entries.pop(key, None)
        else:
            self.entries[key] = entry
