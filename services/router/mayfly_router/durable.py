"""Events and durable calls at their owner, from the consumer that delivers them to the verdict on their outcome.

A delivery is held here, and its lease at the server extended, until it is settled: while it waits for a slot, for the
events of its key before it, for a batch to be full, and while it runs. What is held is all that a router has: killed
with -9 it loses the memory of it, and its successor learns from the workers what runs, and from the server, when the
leases are over, the rest.

An outcome that does not come is noticed: a call that left its slot some time ago and was not settled is given back.
"""

from collections.abc import Callable

import msgspec
import structlog

from mayfly_chassis.bus import Bus
from mayfly_proto import errors, headers, storage
from mayfly_proto.errors import CallError, ErrorType
from mayfly_proto.records import VersionSpec
from mayfly_router import batching, settle, timing
from mayfly_router.batching import Gathering
from mayfly_router.call import FOREVER_S, Call
from mayfly_router.delivery import Delivery, parse_ack, parse_settle
from mayfly_router.dispatch import Dispatch
from mayfly_router.function import Function
from mayfly_router.ordering import Lanes
from mayfly_router.replies import COMPONENT
from mayfly_router.settle import Verdict
from mayfly_router.settler import GIVE_BACK, IN_PROGRESS, Settler
from mayfly_router.source import Source
from mayfly_router.state import State

EXTEND_S = 3.0  # a lease of ten seconds
OUTCOME_S = 2.0  # from leaving its slot until an outcome is taken for lost
REDELIVERIES = 100  # beyond its attempts: it takes its routers with it

_OURS = b"\r\nMayfly-"
_ERROR_CODE = headers.SERVICE_ERROR_CODE.encode()

_log = structlog.get_logger()


Claim = Callable[[Delivery, str, Callable[[bool | None], None]], None]


class Durable:
    def __init__(
        self,
        bus: Bus,
        state: State,
        dispatch: Dispatch,
        settler: Settler,
        *,
        unix: Callable[[], float],
        jitter: Callable[[], float],
        fetch: Callable[[Delivery, Callable[[], None]], None],
        gather: Callable[[Source, Callable[[], None]], None],
        claim: Claim,
        pull: Callable[[str], None],
    ) -> None:
        """``fetch(delivery, then)`` fills in what only the stream knows; ``gather(source, then)`` has all that is on
        its way come together; ``claim(delivery, tick, then)`` says whether it is the first of its tick;
        ``pull(function)`` has more come."""
        self._state = state
        self._dispatch = dispatch
        self._settler = settler
        self._unix = unix
        self._jitter = jitter
        self._fetch = fetch
        self._gather = gather
        self._claim = claim
        self._pull = pull
        self._limit = bus.payload_limit
        self._running: dict[bytes, Call] = {}  # by settle subject: handed to dispatch, not settled
        self._lanes: dict[str, Lanes] = {}
        self._gatherings: dict[str, Gathering] = {}
        self._again: list[tuple[float, Delivery]] = []  # in the order of a key: when it is to run again

    def admit(self, function: Function, delivery: Delivery, now: float) -> None:
        """A delivery has come."""
        source, spec = delivery.source, _spec(function)
        if spec is None or function.left:
            self._settler.say(delivery, GIVE_BACK)
            del source.held[delivery.sequence]
        elif source.early is not None:
            source.early[delivery.sequence] = delivery
        elif source.is_due and (tick := timing.tick(delivery.headers)) is not None:
            self._tick(function, delivery, *tick)
        elif not self._diverted(delivery, spec):
            self._line_up(function, delivery, now)

    def opened(self, source: Source) -> None:
        """A consumer that is new here, or whose connection was broken: in an order nothing may overtake what it had."""
        spec = _spec(self._state.functions.get(source.function))
        if spec is not None and spec.ordered and source.early is None:
            source.early = {}
            self._gather(source, lambda: self._open(source))

    def _open(self, source: Source) -> None:
        """It is known by now what came before those that were early."""
        function, early, now = self._state.functions.get(source.function), source.early, self._state.clock()
        spec = _spec(function)
        if function is None or spec is None or early is None:
            return
        source.early = None
        if spec.ordered:
            lanes = self._lanes.setdefault(function.name, Lanes(spec.ordered))
            for sequence in sorted(source.held.keys() - early.keys()):
                lanes.recall(source.held[sequence])
        for _, delivery in sorted(early.items()):
            self.admit(function, delivery, now)

    def _tick(self, function: Function, delivery: Delivery, number: int, identity: str, following: float) -> None:
        """A schedule's tick: at most once, and not when the next one is due, unless all are wanted."""
        spec = _spec(function)
        trigger = next((t for t in spec.triggers if t.number == number), None) if spec else None
        if trigger is None or (trigger.missed != "all" and self._unix() >= following):
            self._conclude(delivery, Verdict([]))
            return

        def claimed(first: bool | None) -> None:
            if first is None or function.left:
                self._settler.say(delivery, GIVE_BACK)
                delivery.source.held.pop(delivery.sequence, None)
            elif first:
                self._line_up(function, delivery, self._state.clock())
            else:
                self._conclude(delivery, Verdict([]))

        self._claim(delivery, identity, claimed)

    def _diverted(self, delivery: Delivery, spec: VersionSpec) -> bool:
        """What is not to be run now, or not at all."""
        raw = delivery.headers
        if delivery.redelivered > spec.retries.attempts + REDELIVERIES:
            self._refuse(delivery, ErrorType.NODE_LOST, f"it was delivered {delivery.redelivered} times in vain")
        elif delivery.source.is_object and _is_deletion(delivery.payload):
            self._conclude(delivery, Verdict([]))
        elif raw is None or _OURS not in raw:
            return False
        elif delivery.depth >= headers.DEPTH_LIMIT:
            self._refuse(delivery, ErrorType.LOOP, f"it came through {delivery.depth} functions: is this a circle?")
        elif delivery.source.stream == storage.ASYNC and timing.asks_for_later(raw):
            return self._put_off(delivery, raw)
        else:
            return False
        return True

    def _put_off(self, delivery: Delivery, raw: bytes) -> bool:
        try:
            at = timing.wanted_at(raw, self._unix())
        except ValueError as error:
            self._refuse(delivery, ErrorType.BAD_REQUEST, str(error))
            return True
        if at is not None:
            self._conclude(delivery, settle.later(delivery, at))
        return at is not None

    def _refuse(self, delivery: Delivery, kind: ErrorType, sentence: str) -> None:
        self._settle_failure(delivery, CallError(kind, sentence, component=COMPONENT))

    def _line_up(self, function: Function, delivery: Delivery, now: float) -> None:
        spec = _spec(function)
        assert spec is not None
        if spec.batch is not None:
            gathering = self._gatherings.get(spec.name)
            if gathering is None:
                gathering = self._gatherings[spec.name] = Gathering(spec.batch, self._limit)
            if batch := gathering.add(delivery, now):
                self._run_batch(function, batch, now)
        elif not spec.ordered or self._lanes.setdefault(spec.name, Lanes(spec.ordered)).enter(delivery):
            self._run(function, delivery, now)

    def _run(self, function: Function, delivery: Delivery, now: float) -> None:
        call = Call(
            delivery.invocation,
            delivery.settle,
            delivery.for_handler(),
            delivery.payload,
            now,
            attempt=delivery.attempt,
        )
        call.deliveries = (delivery,)
        self._hand_over(function, call, now)

    def _run_batch(self, function: Function, batch: list[Delivery], now: float) -> None:
        block, payload = batching.pack(batch)
        call = Call(batch[0].invocation, batch[0].settle, block, payload, now, attempt=batch[0].attempt)
        call.deliveries = tuple(batch)
        call.gathered = True
        self._hand_over(function, call, now)

    def _hand_over(self, function: Function, call: Call, now: float) -> None:
        call.deadline = now + FOREVER_S
        self._running[call.reply.encode()] = call
        pool = function.current
        assert pool is not None
        self._dispatch.enter(function, pool, call, now)

    # outcomes

    def on_outcome(self, subject: bytes, _reply: bytes, raw: bytes | None, payload: bytes) -> None:
        """A worker's answer, or the router's own error, to a durable call."""
        call = self._running.pop(subject, None) or self._unknown(subject.decode())
        if call is None:
            return
        error = errors.from_reply(raw, payload) if raw is not None and _ERROR_CODE in raw else None
        if error is not None:
            for delivery in call.deliveries:
                self._settle_failure(delivery, error)
            return
        bad = batching.failed(call.deliveries, payload) if call.gathered else ()
        for delivery in call.deliveries:
            if delivery in bad:
                reason = CallError(
                    ErrorType.FUNCTION_ERROR, "the batch's result names it as failed", component=COMPONENT
                )
                self._settle_failure(delivery, reason)
            else:
                self._settle_success(delivery, raw, payload)

    def adopt(self, call: Call) -> None:
        """It runs by another router's order: from now on it is settled here."""
        found = self._unknown(call.reply)
        if found is None:
            return
        call.deliveries = found.deliveries
        (delivery,) = call.deliveries
        delivery.source.held[delivery.sequence] = delivery
        self._running[call.reply.encode()] = call

    def _unknown(self, subject: str) -> Call | None:
        """The call of a settle subject, as far as that tells."""
        name, ack = parse_settle(subject)
        try:
            key, redelivered, sequence, _ = parse_ack(ack)
        except ValueError:
            return None
        stream, _, consumer = key.decode().partition(".")
        function = self._state.functions.get(name)
        source = next((s for s in function.sources if s.key == key), None) if function else None
        now = self._state.clock()
        call = Call("", subject, None, b"", now)
        call.deliveries = (Delivery(source or Source(name, stream, consumer), ack, redelivered, sequence, now),)
        return call

    def _settle_success(self, delivery: Delivery, raw: bytes | None, payload: bytes) -> None:
        spec = _spec(self._state.functions.get(delivery.source.function))
        if not delivery.whole and (delivery.source.is_due or (spec is not None and (spec.on_success or spec.ordered))):
            self._fetch(delivery, lambda: self._settle_success(delivery, raw, payload))
            return
        self._conclude(delivery, settle.succeeded(delivery, raw, payload, spec))

    def _settle_failure(self, delivery: Delivery, error: CallError) -> None:
        if not delivery.whole:
            self._fetch(delivery, lambda: self._settle_failure(delivery, error))
            return
        spec = _spec(self._state.functions.get(delivery.source.function))
        self._conclude(delivery, settle.failed(delivery, error, spec, self._unix(), self._jitter()))

    def _conclude(self, delivery: Delivery, verdict: Verdict) -> None:
        self._settler.carry_out(delivery, verdict, self._concluded)

    def _concluded(self, delivery: Delivery, verdict: Verdict) -> None:
        source, now = delivery.source, self._state.clock()
        if verdict.again_in_s is not None:
            delivery.attempt += 1
            self._again.append((now + verdict.again_in_s, delivery))
            return
        source.held.pop(delivery.sequence, None)
        function = self._state.functions.get(source.function)
        if function is None:
            return
        if (lanes := self._lanes.get(source.function)) and (following := lanes.leave(delivery)):
            self._run(function, following, now)
        self._pull(source.function)

    # what time and other routers do

    def tick(self, now: float) -> None:
        for name, gathering in list(self._gatherings.items()):
            function = self._state.functions.get(name)
            if function is not None and (batch := gathering.due(now)):
                self._run_batch(function, batch, now)
        due = [delivery for at, delivery in self._again if at <= now]
        self._again = [entry for entry in self._again if entry[0] > now]
        for delivery in due:
            if function := self._state.functions.get(delivery.source.function):
                self._run(function, delivery, now)

    def extend(self, now: float) -> None:
        """Keep what is held; give back that whose outcome was lost."""
        for subject, call in list(self._running.items()):
            if call.left and now - call.left > OUTCOME_S:
                del self._running[subject]
                _log.warning("outcome.lost", invocation=call.invocation)
                for delivery in call.deliveries:
                    self._settler.say(delivery, GIVE_BACK)
                    self._concluded(delivery, Verdict([]))
        for function in self._state.functions.values():
            for source in function.sources:
                for delivery in source.held.values():
                    if now - delivery.extended >= EXTEND_S:
                        delivery.extended = now
                        self._settler.say(delivery, IN_PROGRESS)

    def reline(self, function: Function, before: VersionSpec) -> None:
        """Another version is current. If it wants its events in another form, those that wait come again in that."""
        spec = _spec(function)
        if spec is None or (spec.batch, spec.ordered) == (before.batch, before.ordered):
            return
        for pool in function.pools.values():
            for call in pool.durable():
                self.give_back(call)
        self._let_go(function)

    def give_back(self, call: Call) -> None:
        """It has not run here, and will not."""
        self._running.pop(call.reply.encode(), None)
        for delivery in call.deliveries:
            self._settler.say(delivery, GIVE_BACK)
            delivery.source.held.pop(delivery.sequence, None)

    def release(self, function: Function) -> None:
        """It is another router's now, or gone: what runs is settled there, the rest is given back."""
        self._let_go(function)
        for source in function.sources:
            source.held.clear()
            source.early = None
        self._running = {
            subject: call
            for subject, call in self._running.items()
            if call.deliveries[0].source.function != function.name
        }

    def _let_go(self, function: Function) -> None:
        """Give back what does not run."""
        name = function.name
        running = {d for call in self._running.values() if call.share is not None for d in call.deliveries}
        for source in function.sources:
            for sequence, delivery in list(source.held.items()):
                if delivery not in running:
                    del source.held[sequence]
                    self._settler.say(delivery, GIVE_BACK)
        self._again = [entry for entry in self._again if entry[1].source.function != name]
        self._lanes.pop(name, None)
        self._gatherings.pop(name, None)

    @property
    def running(self) -> int:
        return len(self._running)


def _is_deletion(payload: bytes) -> bool:
    """An object's last word may be that it is gone."""
    try:
        return msgspec.json.decode(payload, type=_Object).deleted
    except msgspec.MsgspecError:
        return False


class _Object(msgspec.Struct):
    deleted: bool = False


def _spec(function: Function | None) -> VersionSpec | None:
    return function.current.spec if function is not None and function.current is not None else None
