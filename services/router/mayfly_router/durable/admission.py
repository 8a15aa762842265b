"""What is looked at before a delivery lines up for a slot: is it its turn, its time, and the first of its kind?"""

import asyncio
from collections.abc import Callable

import msgspec
import structlog

from mayfly_chassis.errors import BusError
from mayfly_proto import headers, storage
from mayfly_proto.errors import ErrorType
from mayfly_proto.records import VersionSpec
from mayfly_router.durable import claims, settle, timing
from mayfly_router.durable.claims import Claims
from mayfly_router.durable.delivery import Delivery
from mayfly_router.durable.durable import Durable
from mayfly_router.durable.settle import Verdict
from mayfly_router.durable.source import Source
from mayfly_router.durable.stored import Stored
from mayfly_router.function import Function
from mayfly_router.orders import Background
from mayfly_router.state import State

REDELIVERIES = 100  # beyond its attempts: it takes its routers with it
TICK_KEPT_S = 86_400  # in which a tick is not run again
POLL_S = 0.5  # for the result of the first call with a key, at first
LONGEST_POLL_S = 10.0

_OURS = b"\r\nMayfly-"

_log = structlog.get_logger()


class Admission:
    def __init__(
        self,
        state: State,
        durable: Durable,
        stored: Stored,
        found: Claims,
        background: Background,
        unix: Callable[[], float],
        limit: int,
    ) -> None:
        self._state = state
        self._durable = durable
        self._stored = stored
        self._claims = found
        self._background = background
        self._unix = unix
        self._limit = limit  # bytes of a payload and its headers that a node can be sent

    def admit(self, function: Function, delivery: Delivery, now: float) -> None:
        """A delivery has come."""
        source, raw = delivery.source, delivery.headers
        if function.left or function.current is None:
            self._durable.give_back(delivery)
        elif source.early is not None:
            source.early[delivery.sequence] = delivery
        elif raw is None and not source.is_foreign and delivery.redelivered < REDELIVERIES:
            self._durable.line_up(function, delivery, now)
        else:
            self._look_closer(function, function.current.spec, delivery, raw or b"", now)

    def _look_closer(self, function: Function, spec: VersionSpec, delivery: Delivery, raw: bytes, now: float) -> None:
        source = delivery.source
        if delivery.redelivered > spec.retries.attempts + REDELIVERIES:
            vain = f"it was delivered {delivery.redelivered} times in vain"
            delivery.attempt = max(delivery.attempt, spec.retries.attempts)  # none is left
            self._durable.refuse(delivery, ErrorType.NODE_LOST, vain)
        elif source.is_foreign and len(delivery.payload) + len(raw) > self._limit:
            self._too_large(delivery, len(raw))
        elif source.is_object and _is_deletion(delivery.payload):
            self._durable.conclude(delivery, Verdict([]))
        elif source.is_due and (tick := timing.tick(raw)) is not None:
            self._tick(function, spec, delivery, tick)
        elif _OURS not in raw:
            self._durable.line_up(function, delivery, now)
        elif delivery.depth >= headers.DEPTH_LIMIT:
            circle = f"it came through {delivery.depth} functions: is this a circle?"
            self._durable.refuse(delivery, ErrorType.LOOP, circle)
        elif source.stream == storage.ASYNC and timing.asks_for_later(raw) and self._put_off(delivery, raw):
            return
        elif delivery.key_of_call is not None:
            self._background(f"claim {delivery.invocation}", self._claim(function, delivery))
        else:
            self._durable.line_up(function, delivery, now)

    def _too_large(self, delivery: Delivery, headers_size: int) -> None:
        """A stream of the user's takes more than a call can carry, or a dead letter."""
        size, where = len(delivery.payload), f"message {delivery.sequence} of stream {delivery.source.stream}"
        delivery.payload, delivery.headers = b"", None
        told = f"{size} bytes, and {headers_size} of headers, are more than a call may carry: they are {where}"
        self._durable.refuse(delivery, ErrorType.TOO_LARGE, told)

    def _put_off(self, delivery: Delivery, raw: bytes) -> bool:
        """Whether it is not for now."""
        try:
            at = timing.wanted_at(raw, self._unix())
        except ValueError as error:
            self._durable.refuse(delivery, ErrorType.BAD_REQUEST, str(error))
            return True
        if at is not None:
            self._durable.conclude(delivery, settle.later(delivery, at))
        return at is not None

    def _tick(self, function: Function, spec: VersionSpec, delivery: Delivery, tick: timing.Tick) -> None:
        """At most once, and not when the next one is due, unless all are wanted."""
        trigger = next((trigger for trigger in spec.triggers if trigger.number == tick.trigger), None)
        if trigger is None or (trigger.missed != "all" and self._unix() >= tick.next_at):
            self._durable.conclude(delivery, Verdict([]))
        else:
            self._background(f"tick {delivery.invocation}", self._claim_tick(function, delivery, tick))

    async def _claim_tick(self, function: Function, delivery: Delivery, tick: timing.Tick) -> None:
        key = claims.key(function.name, tick.identity)
        try:
            found = await self._claims.claim(key, delivery.invocation, ttl_s=TICK_KEPT_S)
        except BusError as error:
            _log.warning("tick.unclaimed", invocation=delivery.invocation, error=str(error))
            self._durable.give_back(delivery)
            return
        if found is None:
            self._durable.line_up(function, delivery, self._state.clock())
        else:
            self._durable.conclude(delivery, Verdict([]))

    async def _claim(self, function: Function, delivery: Delivery) -> None:
        """A durable call with an idempotency key: if it is not the first, it gets the first one's result."""
        spec = function.current.spec if function.current is not None else None
        key, door = delivery.key_of_call, self._durable.at_the_door
        assert key is not None
        pause_s = POLL_S
        try:
            while spec is not None and not function.left:
                found = await self._claims.claim(key, delivery.invocation, ttl_s=spec.idempotency_ttl_s)
                if found is None:
                    delivery.claimed = True
                    self._durable.line_up(function, delivery, self._state.clock())
                    return
                if found.headers is not None:
                    self._durable.conclude(delivery, settle.repeated(delivery, found.headers, found.payload))
                    return
                door.add(delivery)
                delivery.park()  # those that have a key of their own go on
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 1.5, LONGEST_POLL_S)
                if delivery not in door:
                    return  # it was taken back
                door.discard(delivery)
                if not delivery.is_held:
                    return  # it was given back
        except BusError as error:
            _log.warning("key.unclaimed", invocation=delivery.invocation, error=str(error))
        self._durable.give_back(delivery)

    # in the order of a key

    def opened(self, source: Source) -> None:
        """A consumer that is new here, or whose connection was broken: nothing may overtake what it had."""
        function = self._state.functions.get(source.function)
        if function is None or function.current is None:
            return
        if function.current.spec.ordered and source.early is None:
            source.early = {}
            self._stored.gather(source, lambda: self._open(source))

    def _open(self, source: Source) -> None:
        """It is known by now what came before those that were early."""
        function, early, now = self._state.functions.get(source.function), source.early, self._state.clock()
        if function is None or early is None:
            return
        source.early = None
        for sequence in sorted(source.held.keys() - early.keys()):
            self._durable.recall(function, source.held[sequence])
        for _, delivery in sorted(early.items()):
            self.admit(function, delivery, now)


def _is_deletion(payload: bytes) -> bool:
    """An object's last word may be that it is gone."""
    try:
        return msgspec.json.decode(payload, type=_Object).deleted
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return False


class _Object(msgspec.Struct):
    deleted: bool = False
