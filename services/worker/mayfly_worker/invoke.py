"""The warm path: a router's frame in, an instance's answer out. Everything here runs once or more for every call, so
nothing awaits, logs or makes a timer.
"""

import asyncio
import struct
import time
from collections.abc import Callable

import msgspec

from mayfly_chassis.bus import Bus
from mayfly_chassis.errors import BusError
from mayfly_proto import codec
from mayfly_proto.errors import CallError, ErrorType
from mayfly_proto.messages import Invoke, Refusal
from mayfly_proto.subjects import KEYED_PREFIX, REPLY_PREFIXES, SETTLE_PREFIX
from mayfly_worker import replies
from mayfly_worker.calls import Call, Calls, Link
from mayfly_worker.complaints import Complaints
from mayfly_worker.fence import Fence
from mayfly_worker.group import Group, Instance, Waiting
from mayfly_worker.pool import Pool
from mayfly_worker.replies import COMPONENT

LONGEST_DELAY_S = 0.002  # of the outcome of a durable call that others wait behind

MALFORMED = (msgspec.MsgspecError, ValueError, struct.error)

_SETTLE = SETTLE_PREFIX.encode()
# Callers' inboxes, and what routers have for themselves: only they can send an `Invoke`, and they refuse callers these.
_REPLIES = (*REPLY_PREFIXES, SETTLE_PREFIX.encode(), KEYED_PREFIX.encode())


class Invoker:
    def __init__(self, bus: Bus, pool: Pool, calls: Calls, fence: Fence, complaints: Complaints) -> None:
        self._bus = bus
        self._pool = pool
        self._calls = calls
        self._fence = fence
        self._complain = complaints
        self._unpack = codec.Unpacker(Invoke)
        self._loop = asyncio.get_running_loop()
        self._now: Callable[[], float] = time.monotonic  # uvloop's own clock counts whole milliseconds
        self._telling = False
        self._outcomes: list[tuple[bytes, bytes, bytes]] = []  # of durable calls, that go out together
        self._timer: asyncio.TimerHandle | None = None
        self._limit = bus.payload_limit
        self.no_slot = Refusal.BUSY  # what a router is told when nothing here takes its call

    def on_invoke(self, _subject: bytes, _reply: bytes, headers: bytes | None, frame: bytes) -> None:
        try:
            invoke, payload = self._unpack(frame)
            link = self._calls.link(invoke.router)
        except MALFORMED as error:
            self._complain("frame.malformed", str(error))
            return
        if invoke.seq > link.last_seq:
            link.last_seq = invoke.seq
        if not self._fence.admits(invoke.router, invoke.epoch, invoke.function):
            self._refuse(link, invoke.seq, Refusal.STALE)
            return
        group = self._pool.groups.get((invoke.function, invoke.version))
        if group is None:
            self._refuse(link, invoke.seq, self.no_slot)
            return
        reply = invoke.reply.encode()
        if not reply.startswith(_REPLIES):
            reply = b""
        instance = group.take()
        if instance is None and not (reply.startswith(_SETTLE) and group.lets_wait):
            self._refuse(link, invoke.seq, self.no_slot)
            return
        call = self._calls.start(link, invoke.seq, group, invoke.invocation, reply, headers)
        if instance is None:
            group.waiting.append(Waiting(call, invoke.budget_ms, invoke.attempt, payload))
        else:
            self._begin(call, instance, invoke.budget_ms, invoke.attempt, payload, self._now())

    def _begin(self, call: Call, instance: Instance, budget_ms: int, attempt: int, payload: bytes, now: float) -> None:
        budget_ms = min(budget_ms, instance.group.timeout_ms)  # known by now, whatever was when it came
        call.begin(instance, budget_ms, now)
        if budget_ms <= 0:
            late = CallError(ErrorType.DEADLINE_EXCEEDED, "the caller's deadline has passed", component=COMPONENT)
            self.error(instance, call.id, late)
            return
        process = instance.process
        assert process is not None
        process.send(call.id, call.invocation, budget_ms, call.cold, attempt, call.headers, payload)

    def serve(self, group: Group) -> None:
        """Those that wait go into the slots that are free; if nothing of the group is left, they are the router's."""
        while group.waiting and (instance := group.take()) is not None:
            call, budget_ms, attempt, payload = group.waiting.popleft()
            self._begin(call, instance, budget_ms, attempt, payload, self._now())
        if group.waiting and not group.lets_wait:
            while group.waiting:
                call = group.waiting.popleft().call
                self._calls.drop(call)
                self._refuse(call.link, call.seq, self.no_slot)

    def result(self, instance: Instance, call_id: int, content_type: int, extra: bytes | None, payload: bytes) -> None:
        call = self._calls.finish(call_id, instance)
        if call is None:
            return
        if extra or content_type or len(payload) > self._limit:
            error = replies.objection(content_type, extra, len(payload), self._limit)
            if error is not None:
                self._answer_error(call, error)
                return
        now = self._now()
        if call.cold:
            duration_ms = (now - call.started) * 1000
            block = replies.cold(call.invocation, content_type, extra, instance.group.version, duration_ms)
        else:
            block = replies.warm(call.invocation, content_type, extra)
        self._finish(call, block, payload, now)

    def error(self, instance: Instance, call_id: int, error: CallError) -> None:
        call = self._calls.finish(call_id, instance)
        if call is not None:
            self._answer_error(call, error)

    def _answer_error(self, call: Call, error: CallError) -> None:
        now = self._now()
        error.invocation = call.invocation
        duration_ms = (now - call.started) * 1000
        block = error.headers(replies.details(call.cold, call.group.version, duration_ms))
        self._finish(call, block, error.body(), now)

    def _finish(self, call: Call, block: bytes, payload: bytes, now: float) -> None:
        instance, group = call.instance, call.group
        assert instance is not None
        instance.busy_s += now - call.started
        group.release(instance, now)
        if group.waiting:
            self.serve(group)
        if not group.waiting or not call.reply.startswith(_SETTLE):
            # The router's news is scheduled before the answer, so that both leave in one write.
            self._tell_soon()
            self._answer(call.reply, block, payload)
        else:
            self._put_off(group, (call.reply, block, payload))
        if instance.finished and instance.process is not None:
            instance.process.stop()

    def _answer(self, reply: bytes, block: bytes, payload: bytes) -> None:
        if reply:
            try:
                self._bus.publish(reply, payload, headers=block)
            except BusError as error:
                self._complain("reply.lost", str(error))

    def _put_off(self, group: Group, answer: tuple[bytes, bytes, bytes]) -> None:
        """While others wait here nobody is in a hurry: the outcomes of half of them go out in one write."""
        self._outcomes.append(answer)
        if len(self._outcomes) >= len(group.waiting):
            self._tell_soon()
        elif self._timer is None:
            self._timer = self._loop.call_later(LONGEST_DELAY_S, self._tell_soon)

    def _tell_soon(self) -> None:
        if not self._telling:
            self._telling = True
            self._loop.call_soon(self.tell_routers)

    def _refuse(self, link: Link, seq: int, refusal: str) -> None:
        link.refused.append((seq, refusal))
        self._tell_soon()

    def tell_routers(self) -> None:
        """What they have to know goes out, before anything that is said of this node."""
        self._telling = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        outcomes, self._outcomes = self._outcomes, []
        for outcome in outcomes:
            self._answer(*outcome)
        for subject, done in self._calls.completions():
            try:
                self._bus.publish(subject, codec.pack(done))
            except BusError as error:
                self._complain("done.lost", str(error))  # the heartbeat tells the router as well
