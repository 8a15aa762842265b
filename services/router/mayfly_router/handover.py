"""Calls whose function is another router's now: passed on, and taken in.

Routers may disagree for a moment about who owns what. The one with the newer members knows better, so a call is passed
on only with a higher epoch than it came with, and one from a newer epoch waits here until this router has caught up: it
cannot go in a circle.
"""

from collections.abc import Callable
from contextlib import suppress

from mayfly_chassis.bus import Bus
from mayfly_chassis.errors import BusError
from mayfly_proto import codec, ownership, subjects
from mayfly_proto.messages import Handover
from mayfly_router import replies
from mayfly_router.call import Call
from mayfly_router.dispatch import Dispatch
from mayfly_router.state import State

_decode = codec.Unpacker(Handover)


class Handovers:
    """``give_back(call)`` takes durable calls: the stream has them, and gives them to the new owner."""

    def __init__(self, bus: Bus, state: State, dispatch: Dispatch, give_back: Callable[[Call], None]) -> None:
        self._bus = bus
        self._state = state
        self._dispatch = dispatch
        self._give_back = give_back
        self._early: list[tuple[Handover, bytes | None, bytes]] = []

    def divert(self, call: Call, function: str) -> None:
        """Send a call that is not bound to a slot to the function's owner."""
        if call.deliveries:
            self._give_back(call)
            return
        members = self._state.members
        owner = ownership.owner(function, members.members)
        if owner is None:
            self._dispatch.fail(call, replies.stopping(call.invocation))
        elif owner == self._state.router:
            self._come_home(call, function)
        else:
            budget_ms = call.budget_ms(self._state.clock())
            meta = Handover(function, call.pinned, call.invocation, call.reply, budget_ms, call.attempt, members.epoch)
            with suppress(BusError):
                frame = codec.pack(meta, call.payload)
                self._bus.publish(subjects.router_handover(owner), frame, headers=call.headers)

    def _come_home(self, call: Call, name: str) -> None:
        """It came by a subscription of the time before the function went away and came back."""
        function = self._state.owned(name)
        if function is None:
            self._dispatch.fail(call, replies.not_found(name, call.pinned, call.invocation))
        else:
            self._dispatch.take_over(function, call)

    def on_handover(self, _subject: bytes, _reply: bytes, raw: bytes | None, payload: bytes) -> None:
        meta, event = _decode(payload)
        if meta.epoch > self._state.members.epoch:
            self._early.append((meta, raw, event))
        else:
            self._accept(meta, raw, event)

    def catch_up(self) -> None:
        """The members have changed."""
        early, self._early = self._early, []
        for meta, raw, event in early:
            if meta.epoch > self._state.members.epoch:
                self._early.append((meta, raw, event))
            else:
                self._accept(meta, raw, event)

    def _accept(self, meta: Handover, raw: bytes | None, event: bytes) -> None:
        now = self._state.clock()
        call = Call(meta.invocation, meta.reply, raw, event, now, meta.version, meta.attempt)
        call.deadline = now + meta.budget_ms / 1000
        function = self._state.owned(meta.function)
        if function is None:
            self.divert(call, meta.function)
        else:
            self._dispatch.take_over(function, call)
