"""The warm path: a call in, a frame out, a slot freed when it is done.

Nothing here waits, logs or arms a timer for a single call. What to order is planned once per turn of the event loop
for all functions that were touched in it, so that a burst that comes in one read is one order.
"""

import secrets
from collections.abc import Callable, Iterable
from contextlib import suppress

from mayfly_chassis.bus import Bus
from mayfly_chassis.errors import BusError, MessageTooLarge, OutboundBufferFull
from mayfly_proto import codec, headers
from mayfly_proto.errors import CallError
from mayfly_proto.messages import Done, Invoke, Refusal
from mayfly_proto.subjects import KEYED_PREFIX, REPLY_PREFIXES
from mayfly_router import rates, replies
from mayfly_router.call import Call
from mayfly_router.function import Function, Plan
from mayfly_router.nodes import Node
from mayfly_router.pool import Pool
from mayfly_router.share import Share
from mayfly_router.state import State

SLEPT_S = 1.0  # without a tick: this process was paused, and what it measures is not how long calls take
HEADERS_LIMIT = 60_000  # bytes; with the frame's metadata they fit what payload_limit leaves of max_payload

_TIMEOUT = headers.TIMEOUT_MS.encode()
_KEY = headers.IDEMPOTENCY_KEY.encode()
_PROBE = headers.PROBE.encode()
_decode_done = codec.Unpacker(Done)


class Dispatch:
    def __init__(self, bus: Bus, state: State, wait_s: float, soon: Callable[[Callable[[], None]], object]) -> None:
        self._bus = bus
        self._state = state
        self._wait_s = wait_s
        self._clock = state.clock
        self._soon = soon  # the event loop's `call_soon`
        self._limit = bus.payload_limit
        self._prefix = secrets.token_hex(5)
        self._count = 0
        self._touched: set[str] = set()
        self._restless: set[str] = set()  # functions to be looked at by time
        self._ticked = float("inf")  # when `tick` was called last
        self.may_order = False  # every node has been asked what it has

    def attach(
        self,
        *,
        act: Callable[[Plan], None],
        divert: Callable[[Call, str], None],
        stale: Callable[[Node], None],
        keyed: Callable[[Function, Call, bytes], None],
        again: Callable[[Call], None],
    ) -> None:
        """``act`` carries a plan out; ``divert(call, function)`` finds the way of a call whose function is not ours;
        ``stale`` hears that a node takes another router for the owner; ``keyed(function, call, key)`` takes a call with
        an idempotency key; ``again(call)`` has a durable call run that was adopted, and comes back."""
        self._act, self._divert, self._stale, self._keyed, self._again = act, divert, stale, keyed, again

    # the warm path

    def on_call(
        self, function: Function, pinned: int, _subject: bytes, reply: bytes, raw: bytes | None, payload: bytes
    ) -> None:
        """A message on ``fn.<function>``, or on ``fn.<function>@<pinned>``."""
        if reply and not reply.startswith(REPLY_PREFIXES):
            return  # nobody may borrow our rights to publish
        answer_to = reply.decode("utf-8", "replace")
        if not answer_to.isprintable():
            return  # nats-server passes it on, but nobody here would publish to it
        now = self._clock()
        self._count += 1
        call = Call(f"{self._prefix}{self._count:x}", answer_to, raw, payload, now, pinned)
        pool = function.pools.get(pinned) if pinned else function.current
        if pool is None:
            self.fail(call, replies.not_found(function.name, pinned, call.invocation))
            return
        call.deadline = now + pool.spec.timeout_s + self._wait_s
        special = raw is not None and (_TIMEOUT in raw or _KEY in raw or _PROBE in raw or len(raw) > HEADERS_LIMIT)
        if (special or len(payload) > self._limit) and not self._passes(call, pool, reply, raw or b""):
            return
        if function.rates is not None and reply and self._too_often(function, call, reply):
            return
        function.calls += 1
        if special and raw is not None and reply and not function.left and (key := headers.find(raw, _KEY)):
            self._keyed(function, call, key)
        else:
            self.enter(function, pool, call, now)

    def take_over(self, function: Function, call: Call) -> None:
        """A call that waited at another router."""
        key = headers.find(call.headers, _KEY) if call.headers and call.reply else None
        if key and not call.reply.startswith(KEYED_PREFIX):
            self._keyed(function, call, key)
        else:
            self.begin(function, call)

    def begin(self, function: Function, call: Call) -> None:
        """A call that was let in some time ago."""
        pool = function.pool(call.pinned)
        if pool is None:
            self.fail(call, replies.not_found(function.name, call.pinned, call.invocation))
        else:
            self.enter(function, pool, call, self._clock())

    def on_message(self, function: Function, subject: bytes, reply: bytes, raw: bytes | None, payload: bytes) -> None:
        """A message of core NATS on a subject that triggers the function: a call like any other, at most once."""
        self.on_call(function, 0, subject, reply, headers.appended(raw, headers.EVENT_SUBJECT, subject), payload)

    def enter(self, function: Function, pool: Pool, call: Call, now: float) -> None:
        """Into a free slot, or else into the queue."""
        self._state.wake(function)
        share = pool.take(now)
        if share is None and call.deliveries and not pool.queue:
            share = pool.take_ahead(now)
        if share is not None:
            self._send(share, call, now)
        elif function.left:
            self._divert(call, function.name)
        elif failure := pool.hopeless(now):
            self.fail(call, replies.init_failed(failure, call.invocation), pool)
        elif (wait_s := function.excessive_wait_s(pool, self._wait_s, now)) and call.reply and not call.deliveries:
            function.throttled += 1
            self.fail(call, replies.wait_too_long(pool.name, wait_s, call.invocation), pool)
        elif pool.wait(call, now):
            self.touch(pool.name)
        else:
            function.throttled += 1
            self.fail(call, replies.queue_full(pool.name, function.wait_s(pool, now), call.invocation), pool)

    def _send(self, share: Share, call: Call, now: float) -> None:
        node, pool = share.node, share.pool
        node.seq = seq = node.seq + 1
        node.inflight[seq] = call
        call.share = share
        call.sent = now
        meta = Invoke(
            seq,
            self._state.router,
            self._state.members.epoch,
            pool.name,
            pool.version,
            call.invocation,
            call.reply,
            call.budget_ms(now),
            call.attempt,
        )
        try:
            self._bus.publish(node.invoke, codec.pack(meta, call.payload), headers=call.headers)
        except OutboundBufferFull:
            pass  # the node will not have seen it: it is sent again when the connection is back
        except MessageTooLarge:
            del node.inflight[seq]
            size, block = len(call.payload), len(call.headers or b"")
            self.fail(call, replies.too_large(size, self._limit, block, call.invocation), pool)
            self.free(call, now)

    def on_done(self, _subject: bytes, _reply: bytes, _raw: bytes | None, payload: bytes) -> None:
        done, _ = _decode_done(payload)
        node = self._state.nodes.get(done.node)
        if node is None or node.epoch != done.node_epoch:
            return
        now = self._clock()
        slept = now - self._ticked > SLEPT_S
        ahead: list[Share] = []
        for seq in done.done:
            call = node.inflight.pop(seq, None)
            if call is not None:
                share = call.share
                if share is not None and not call.adopted:
                    share.pool.durations.add(now - call.arrived)
                    if share.ahead:
                        ahead.append(share)
                    elif not slept:
                        share.pool.served(now - call.sent)
                self.free(call, now)
        for share in set(ahead):
            if slept:
                share.done_at = now
            else:
                share.pool.served_ahead(share, ahead.count(share), now)
        if done.refused:
            self._refused(node, done.refused, now)

    def free(self, call: Call, now: float) -> None:
        """The call has left its slot."""
        call.left = now
        share = call.share
        if share is None:
            return
        following = share.pool.release(share, now)
        if following is not None:
            self._send(share, following, now)
            if share.pool.queue:
                self.serve(share.pool, now)
        elif share.yielding:
            self.touch(share.pool.name)

    # everything else

    def serve(self, pool: Pool, now: float) -> None:
        """There may be room in this pool."""
        for share, call in pool.match(now):
            self._send(share, call, now)
        if pool.queue:
            self.touch(pool.name)

    def requeue(self, calls: Iterable[Call], now: float) -> None:
        """These calls were with a node, and no instance has seen them; or they may be run again."""
        pools = set()
        oldest_first = sorted(calls, key=lambda call: call.arrived)
        for call in reversed(oldest_first):
            assert call.share is not None
            name, call.share = call.share.pool.name, None
            function = self._state.functions.get(name)
            if function is None:
                self._divert(call, name)
                continue
            pool = function.pool(call.pinned)
            if pool is None:
                self.fail(call, replies.not_found(name, call.pinned, call.invocation))
            else:
                pool.put_back([call], now)
                pools.add(pool)
        for pool in pools:
            self.serve(pool, now)

    def touch(self, function: str) -> None:
        """Something changed for those who wait: plan at the end of this turn of the loop."""
        if not self._touched:
            self._soon(self._plan)
        self._touched.add(function)

    def trim(self, function: Function, now: float) -> None:
        """It may have fewer instances than before, or has more."""
        if self.may_order and (stops := function.trim(now)):
            self._act(Plan([], stops, []))

    def attend(self, function: str) -> None:
        """It has, or is to have, other instances than before: that is told, and planned for if anything is due."""
        owned = self._state.functions.get(function)
        if owned is not None:
            self._state.wake(owned)
            if owned.restless:
                self.touch(function)

    def touch_all(self) -> None:
        for name in self._restless:
            self.touch(name)

    def tick(self, now: float) -> None:
        """What is due by time alone; called every few hundredths of a second."""
        self._ticked = now
        for name in list(self._restless):
            function = self._state.functions.get(name)
            if function is None or not function.restless:
                self._restless.discard(name)
                continue
            for pool in function.pools.values():
                pool.starts.forget_late(now)
                for call in pool.expire(now):
                    late = replies.waited_too_long(name, now - call.arrived, call.invocation)
                    self.fail(call, late, pool)
            self.touch(name)

    def fail(self, call: Call, error: CallError, pool: Pool | None = None) -> None:
        """Answer the caller with an error. An answer that cannot be sent is given up: there is nobody to tell."""
        call.left = self._clock()
        if pool is not None and (function := self._state.functions.get(pool.name)):
            function.errors += 1
            self._state.wake(function)
        with suppress(BusError):
            replies.fail(self._bus, call.reply, error, pool.version if pool else 0)

    def _plan(self) -> None:
        touched, self._touched = self._touched, set()
        now = self._clock()
        for name in touched:
            function = self._state.functions.get(name)
            if function is None:
                continue
            self._state.wake(function)
            self._restless.add(name)
            if self.may_order:
                self._act(function.plan(now))

    def _refused(self, node: Node, refused: list[tuple[int, str]], now: float) -> None:
        calls = []
        for seq, reason in refused:
            call = node.inflight.pop(seq, None)
            if call is None or call.share is None:
                continue
            share = call.share
            share.pool.close(share)
            share.pool.vacate(share, now)
            if call.adopted:
                self._again(call)  # its payload is not here
            else:
                calls.append(call)
            if reason == Refusal.STALE:
                self._stale(node)
        self.requeue(calls, now)

    def _too_often(self, function: Function, call: Call, reply: bytes) -> bool:
        """A call above the limits of its function, which is answered."""
        assert function.rates is not None
        wait_s = function.rates.take(rates.caller(reply, call.headers), call.arrived)
        if not wait_s:
            if function.rates.caller_per_s:
                self._state.rates.add(function.rates)
            return False
        function.throttled += 1
        self.fail(call, replies.too_often(function.name, wait_s, call.invocation), function.current)
        return True

    def _passes(self, call: Call, pool: Pool, reply: bytes, raw: bytes) -> bool:
        """A call that wants a second look: True when it goes on, False when it is answered."""
        if headers.find(raw, _PROBE) is not None:
            with suppress(BusError):
                replies.probe(self._bus, reply, pool.version)
            return False
        if len(call.payload) > self._limit or len(raw) > HEADERS_LIMIT:
            self.fail(call, replies.too_large(len(call.payload), self._limit, len(raw), call.invocation), pool)
            return False
        given = headers.find(raw, _TIMEOUT)
        if given is None:
            return True
        if not given.isdigit() or len(given) > 12 or not 1 <= int(given) <= replies.LONGEST_TIMEOUT_MS:
            self.fail(call, replies.bad_timeout(given.decode("utf-8", "replace"), call.invocation), pool)
            return False
        call.deadline = call.arrived + int(given) / 1000
        return True
