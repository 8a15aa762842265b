"""The consumers that feed this router's functions: what is pulled from them, when, and what they say.

One inbox for each function: when the function goes to another router its subscription ends, and with it all that was
asked for and has not come; nothing is delivered to where nobody is.
"""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from math import ceil

import structlog

from mayfly_chassis.bus import Bus, Subscription
from mayfly_chassis.errors import BusError
from mayfly_proto import headers
from mayfly_router.durable.delivery import Delivery, parse_ack
from mayfly_router.durable.settler import GIVE_BACK, NOT_NOW
from mayfly_router.durable.source import Source, window
from mayfly_router.function import Function
from mayfly_router.state import State

EXPIRES_S = 60.0
HEARTBEAT_S = 20.0
SILENCE_S = 50.0  # after which what was asked is taken for lost
ROUND_S = 10.0  # in which every source is looked at for silence once, a few in each tick
ABSENT_S = 0.5  # until a consumer that was not there is asked again

_PENDING = b"Nats-Pending-Messages"
_REQUEST = f',"expires":{int(EXPIRES_S * 1e9)},"idle_heartbeat":{int(HEARTBEAT_S * 1e9)}}}'.encode()

_log = structlog.get_logger()

Admit = Callable[[Function, Delivery, float], None]


class Feed:
    """What feeds one function."""

    def __init__(self, function: Function, inbox: str) -> None:
        self.function = function
        self.inbox = inbox
        self.sources: dict[bytes, Source] = {}  # by stream and consumer
        self.asked_at: dict[bytes, Source] = {}  # by reply subject
        self.subscription: Subscription | None = None

    def reply(self, source: Source) -> bytes:
        """Where the server says what becomes of a pull."""
        return f"{self.inbox}.{source.stream}-{source.consumer}".encode()


class Intake:
    """``admit(function, delivery, now)`` takes what comes; ``opened(source)`` hears of a source that is new here, or
    whose connection was broken."""

    def __init__(
        self,
        bus: Bus,
        state: State,
        admit: Admit,
        opened: Callable[[Source], None],
        soon: Callable[[Callable[[], None]], object],
    ) -> None:
        self._bus = bus
        self._state = state
        self._soon = soon  # the event loop's `call_soon`
        self._hungry: set[Source] = set()
        self._held_bytes = 0  # of payloads, a moment ago
        self._admit = admit
        self._opened = opened
        self._feeds: dict[str, Feed] = {}
        self._active: set[Feed] = set()  # something of theirs is here, or waits upstream
        self._put_off: set[Feed] = set()  # not asked, since too much was waiting here
        self._absent: list[tuple[float, Feed, Source]] = []
        self._round: list[Feed] = []  # still to be looked at for silence
        self._looked_at = 0.0

    async def follow(self, name: str, function: Function | None) -> list[Subscription]:
        """Pull for the function of that name as it is now, or no longer. Returns the subscriptions that are to end:
        with them ends what was asked for and has not come."""
        ended = self._end(name) if name in self._feeds and self._feeds[name].function is not function else None
        if function is not None:
            feed = self._feeds.get(name)
            if feed is None:
                feed = self._feeds[name] = Feed(function, self._bus.new_inbox())
                feed.subscription = await self._bus.subscribe(f"{feed.inbox}.*", partial(self._received, feed))
            self._update(feed)
        return [ended] if ended is not None else []

    def _end(self, name: str) -> Subscription | None:
        feed = self._feeds.pop(name)
        self._active.discard(feed)
        for source in feed.sources.values():
            source.gone = True
        feed.sources.clear()
        return feed.subscription

    def _update(self, feed: Feed) -> None:
        """The sources of the function as it is now."""
        before, feed.sources = feed.sources, {source.key: source for source in feed.function.sources}
        for key, source in before.items():
            source.gone = feed.sources.get(key) is not source
        for source in feed.function.sources:
            if before.get(source.key) is not source:
                feed.asked_at[feed.reply(source)] = source
                self._opened(source)
                self._active.add(feed)
                self._pull(feed, source)

    def pull(self, source: Source) -> None:
        """Something of it was settled: at the end of this turn of the loop, more may be asked for."""
        if source.wants_more or not source.asked:
            if not self._hungry:
                self._soon(self._pull_all)
            self._hungry.add(source)

    def _pull_all(self) -> None:
        hungry, self._hungry = self._hungry, set()
        for source in hungry:
            feed = self._feeds.get(source.function)
            if feed is not None and feed.sources.get(source.key) is source:
                self._pull(feed, source)

    def _pull(self, feed: Feed, source: Source) -> None:
        pool = feed.function.current
        if pool is None:
            return
        coming = pool.starts.covering * pool.spec.concurrency
        batch = pool.spec.batch.size if pool.spec.batch is not None else 1
        count = source.missing(window(pool.slots + coming, pool.service_s, batch))
        if count <= 0:
            return
        if self._full and source.early is None:
            self._put_off.add(feed)
            return
        source.asked += count
        if not source.heard:
            source.heard = self._state.clock()
        with suppress(BusError):
            self._bus.publish(source.next_subject, b'{"batch":%d' % count + _REQUEST, reply=feed.reply(source))

    @property
    def _full(self) -> bool:
        return self._state.backlog.full or self._held_bytes > self._state.backlog.limit

    def _received(self, feed: Feed, subject: bytes, ack: bytes, raw: bytes | None, payload: bytes) -> None:
        if not ack:
            self._status(feed, subject, raw or b"")
            return
        key, redelivered, sequence, pending = parse_ack(ack)
        source = feed.sources.get(key)
        if source is None:
            self._bus.publish(ack, GIVE_BACK)  # on its way when its function or trigger went
            return
        now = source.heard = self._state.clock()
        source.received()
        source.pending = pending
        if sequence in source.held:
            return  # its lease ran out on the way; the first one settles both
        self._active.add(feed)
        self._state.wake(feed.function)
        delivery = source.held[sequence] = Delivery(source, ack, redelivered, sequence, now)
        try:
            self._admit(feed.function, delivery.fill(subject, raw, payload), now)
        except Exception:  # noqa: BLE001 - nothing may be left behind
            _log.exception("delivery.not_admitted", invocation=delivery.invocation)
            delivery.drop()  # else nothing would ever be heard of it
            self._bus.publish(ack, NOT_NOW)
        if not source.asked and pending:
            self._pull(feed, source)

    def _status(self, feed: Feed, subject: bytes, raw: bytes) -> None:
        """The server's word on what was asked of a source."""
        source = feed.asked_at.get(subject)
        if source is None or source.key not in feed.sources:
            return
        source.heard = self._state.clock()
        status = headers.status(raw)
        if status == "100":
            return
        pending = headers.find(raw, _PENDING)
        source.asked = max(0, source.asked - int(pending)) if pending else 0
        if status == "408":
            self._pull(feed, source)
        else:  # no consumer (yet), a new leader: not at once, or it is asked without end
            self._absent.append((source.heard + ABSENT_S, feed, source))

    def reconnected(self) -> None:
        """What was asked is forgotten; what was on its way comes again when its lease is over."""
        for feed in self._feeds.values():
            for source in feed.sources.values():
                source.asked = 0
                source.heard = 0.0
                self._opened(source)
                self._active.add(feed)
                self._pull(feed, source)

    def tick(self, now: float) -> None:
        self._held_bytes = sum(source.bytes for feed in self._active for source in feed.sources.values())
        for feed in list(self._active):
            for source in feed.sources.values():
                self._pull(feed, source)
            if not any(s.held or s.pending or s.early is not None for s in feed.sources.values()):
                self._active.discard(feed)
        if self._put_off and not self._full:
            put_off, self._put_off = self._put_off, set()
            for feed in put_off:
                for source in feed.sources.values():
                    self._pull(feed, source)
        due = [entry for entry in self._absent if entry[0] <= now]
        self._absent = [entry for entry in self._absent if entry[0] > now]
        for _, feed, source in due:
            if feed.sources.get(source.key) is source:
                self._pull(feed, source)
        self._look_for_silence(now)

    def _look_for_silence(self, now: float) -> None:
        """A source that says nothing has lost our question."""
        share = ceil(len(self._feeds) * min(1.0, (now - self._looked_at) / ROUND_S))
        self._looked_at = now
        if not self._round:
            self._round = list(self._feeds.values())
        for _ in range(min(share, len(self._round))):
            feed = self._round.pop()
            for source in feed.sources.values():
                if source.asked and now - source.heard > SILENCE_S:
                    _log.warning("source.silent", function=source.function, stream=source.stream)
                    source.asked, source.heard = 0, now
                    self._pull(feed, source)
