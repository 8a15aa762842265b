"""Calls on ``fn.`` with an idempotency key.

The first one runs, and its result comes here before it goes to the caller: it is kept, then given to all who wait for
it. Whoever owns the function by then can do that, since the claim says who was first. An error is given to them too,
and not kept, nor is a result that is too large for it: the next call with the key runs again.
"""

import asyncio
import time
from collections.abc import Collection
from contextlib import suppress

import structlog

from mayfly_chassis.bus import Bus
from mayfly_chassis.errors import BusError
from mayfly_proto import errors, headers, subjects
from mayfly_proto.records import IdempotencyRecord
from mayfly_router import replies
from mayfly_router.call import Call
from mayfly_router.dispatch import Dispatch
from mayfly_router.durable import claims
from mayfly_router.durable.claims import Claims
from mayfly_router.function import Function
from mayfly_router.orders import Background
from mayfly_router.state import State

POLL_S = 0.1  # for the result of a call that another router has begun with
GRACE_S = 5.0  # after the deadline of the one that runs, in which its error may still come
FORGET_S = 60.0  # after that deadline, in which nobody has asked again
_ERROR_CODE = headers.SERVICE_ERROR_CODE.encode()
_REPLAYED = {headers.REPLAYED: "true"}

_log = structlog.get_logger()


class Waiting:
    """Those who wait for one result."""

    def __init__(self, reply: str, deadline: float) -> None:
        self.replies = [reply]
        self.deadline = deadline  # of the one that runs
        self.ours = False  # it runs by our order: the claim has its reply


class Keyed:
    def __init__(self, bus: Bus, state: State, dispatch: Dispatch, found: Claims, background: Background) -> None:
        self._bus = bus
        self._state = state
        self._dispatch = dispatch
        self._claims = found
        self._background = background
        self._running: dict[str, Waiting] = {}  # by subject of the result
        self._given_up = False

    @property
    def running(self) -> int:
        return len(self._running)

    def give_up(self) -> None:
        """Nobody waits here any longer for what another router keeps."""
        self._given_up = True

    def enter(self, function: Function, call: Call, key: bytes) -> None:
        """A call with that key has come."""
        subject = subjects.keyed(function.name, claims.digest(key.decode("utf-8", "replace")))
        waiting = self._running.get(subject)
        if waiting is not None and self._state.clock() <= waiting.deadline + GRACE_S:
            waiting.replies.append(call.reply)
        else:  # the first, or the result of the one before was lost
            fresh = self._running[subject] = Waiting(call.reply, call.deadline)
            fresh.replies += waiting.replies if waiting is not None else []
            self._background(f"keyed {call.invocation}", self._begin(function, call, subject))

    async def _begin(self, function: Function, call: Call, subject: str) -> None:
        try:
            found = await self._first(function, call, subject)
        except BusError as error:
            _log.warning("key.unclaimed", function=function.name, error=str(error))
            self._tell(subject, *_error(replies.unreachable(call.invocation)))
            return
        if found is not None and found.headers is not None:
            self._tell(subject, headers.added(found.headers, _REPLAYED), found.payload)
        elif found is not None:
            late = replies.waited_too_long(function.name, self._state.clock() - call.arrived, call.invocation)
            self._tell(subject, *_error(late))
        else:
            call.reply = subject
            if (waiting := self._running.get(subject)) is not None:
                waiting.ours = True
            if function.left:
                self.release([function.name])
            self._dispatch.begin(function, call)

    async def _first(self, function: Function, call: Call, subject: str) -> IdempotencyRecord | None:
        """None when it is ours to run; else what the first one left, which may be nothing by this one's deadline."""
        key = _key(subject)
        until = time.time() + (call.deadline - self._state.clock())
        while True:
            found = await self._claims.claim(
                key, call.invocation, ttl_s=_ttl_s(function), until=until, reply=call.reply
            )
            if found is None or found.headers is not None or self._state.clock() >= call.deadline:
                return found
            if subject not in self._running:
                return IdempotencyRecord(invocation="")  # it has been told meanwhile
            await asyncio.sleep(POLL_S)

    def on_result(self, subject: bytes, _reply: bytes, raw: bytes | None, payload: bytes) -> None:
        self._background("keyed result", self._keep(subject.decode(), raw or headers.PROLOGUE + b"\r\n", payload))

    async def _keep(self, subject: str, raw: bytes, payload: bytes) -> None:
        key = _key(subject)
        others: list[str] = []
        try:
            here = self._running.get(subject)
            others = [] if here is not None and here.ours else await self._waiting(key)
            error = _ERROR_CODE in raw and errors.from_reply(raw, payload) is not None
            if error or len(payload) > claims.LARGEST:
                await self._claims.drop(key)
            else:
                ttl_s = _ttl_s(self._state.known(_function(subject)))
                await self._claims.keep(key, IdempotencyRecord(invocation="", headers=raw, payload=payload), ttl_s)
        except BusError as error:
            _log.warning("key.not_kept", key=key, error=str(error))
        self._tell(subject, raw, payload, others)

    async def _waiting(self, key: str) -> list[str]:
        """Whose call it was, by the claim: another router has begun with it."""
        found = await self._claims.read(key)
        return found.replies if found is not None and found.headers is None else []

    def release(self, functions: Collection[str]) -> None:
        """They are another router's, and so are the results: who waits here gets them from what is kept."""
        for subject in [subject for subject in self._running if _function(subject) in functions]:
            waiting = self._running.pop(subject)
            others = waiting.replies[1:] if waiting.ours else waiting.replies
            if others:
                self._background("keyed wait", self._wait(subject, others, waiting.deadline + GRACE_S))

    async def _wait(self, subject: str, others: list[str], deadline: float) -> None:
        while self._state.clock() <= deadline and not self._given_up:
            with suppress(BusError):
                found = await self._claims.read(_key(subject))
                if found is None:
                    break  # it came to an error, which is not kept
                if found.headers is not None:
                    self._tell(subject, headers.added(found.headers, _REPLAYED), found.payload, others)
                    return
            await asyncio.sleep(POLL_S)
        self._tell(subject, *_error(replies.unreachable("")), others)

    def tick(self, now: float) -> None:
        """Forget those whose result was lost: nobody waits for it any longer."""
        for subject, waiting in list(self._running.items()):
            if now > waiting.deadline + FORGET_S:
                del self._running[subject]

    def _tell(self, subject: str, raw: bytes, payload: bytes, others: list[str] | None = None) -> None:
        waiting = self._running.pop(subject, None)
        for reply in {*(waiting.replies if waiting is not None else ()), *(others or ())}:
            with suppress(BusError):
                if reply:
                    self._bus.publish(reply, payload, headers=raw)


def _key(subject: str) -> str:
    """The claim's key is the tail of the subject on which the result comes."""
    return subject.removeprefix(subjects.KEYED_PREFIX)


def _function(subject: str) -> str:
    return _key(subject).rpartition(".")[0]


def _ttl_s(function: Function | None) -> int:
    return function.current.spec.idempotency_ttl_s if function is not None and function.current is not None else 3600


def _error(error: errors.CallError) -> tuple[bytes, bytes]:
    return error.headers(), error.body()
