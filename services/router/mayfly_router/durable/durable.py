"""Events and durable calls at their owner: they line up, run, and are settled when their outcome comes.

A delivery is held here, and its lease at the server extended, until it is settled: while it waits for a slot, for the
events of its key before it, for a batch to be full, and while it runs. What is held is all that a router has: killed
with -9 it loses the memory of it, and its successor learns from the workers what runs, and from the server, when the
leases are over, the rest.

An outcome that does not come is noticed: a call that left its slot some time ago and was not settled is given back.
"""

from collections.abc import Callable, Collection
from functools import partial
from itertools import chain

import structlog

from mayfly_chassis.bus import Bus
from mayfly_proto import errors, headers
from mayfly_proto.errors import CallError, ErrorType
from mayfly_proto.records import VersionSpec
from mayfly_router.call import FOREVER_S, Call
from mayfly_router.dispatch import Dispatch
from mayfly_router.durable import batching, settle
from mayfly_router.durable.delivery import Delivery, parse_ack, parse_settle
from mayfly_router.durable.settle import Verdict
from mayfly_router.durable.settler import GIVE_BACK, IN_PROGRESS, NOT_NOW, Settler
from mayfly_router.durable.source import Source
from mayfly_router.durable.stored import Stored
from mayfly_router.durable.turns import Turns
from mayfly_router.function import Function
from mayfly_router.replies import COMPONENT
from mayfly_router.state import State

EXTEND_S = 3.0  # a lease of ten seconds
OUTCOME_S = 2.0  # from leaving its slot until an outcome is taken for lost

_ERROR_CODE = headers.SERVICE_ERROR_CODE.encode()

_log = structlog.get_logger()


class Durable:
    """``pull(source)`` has more come from it."""

    def __init__(
        self,
        bus: Bus,
        state: State,
        dispatch: Dispatch,
        settler: Settler,
        stored: Stored,
        *,
        unix: Callable[[], float],
        jitter: Callable[[], float],
        pull: Callable[[Source], None],
    ) -> None:
        self._state = state
        self._dispatch = dispatch
        self._settler = settler
        self._stored = stored
        self._unix = unix
        self._jitter = jitter
        self._pull = pull
        self.payload_limit = bus.payload_limit
        self._room = bus.max_payload
        self._running: dict[bytes, Call] = {}  # by settle subject: handed to dispatch, not settled
        self._turns = Turns(bus.payload_limit)
        self.at_the_door: set[Delivery] = set()  # they wait for the result of the first call with their key

    # to a slot

    def line_up(self, function: Function, delivery: Delivery, now: float) -> None:
        """Let it run: with others, in its turn, or at once."""
        spec = _spec(function)
        if not delivery.waits:
            return  # it was given back or taken back meanwhile
        if spec is None or function.left:
            self.give_back(delivery)
        elif ready := self._turns.enter(spec, delivery, now):
            if spec.batch is not None:
                self._run_batch(function, ready, now)
            else:
                self._run(function, delivery, now)

    def recall(self, function: Function, delivery: Delivery) -> None:
        """One that runs by another router's order: those of its key wait for it."""
        if (spec := _spec(function)) is not None:
            self._turns.recall(spec, delivery)

    def _run(self, function: Function, delivery: Delivery, now: float) -> None:
        delivery.taken = True
        delivery.unpark()
        block = delivery.for_handler()
        call = Call(delivery.invocation, delivery.settle, block, delivery.payload, now, attempt=delivery.attempt)
        call.deliveries = (delivery,)
        self._hand_over(function, call, now)

    def _run_fetched(self, function: Function, delivery: Delivery, now: float) -> None:
        """One of an order, that another router may have begun with."""
        if delivery.whole:
            self._run(function, delivery, now)
        else:
            self._stored.fetch(delivery, lambda: self._run(function, delivery, now), self._forget)

    def _run_batch(self, function: Function, gathered: list[Delivery], now: float) -> None:
        batch = [delivery for delivery in gathered if delivery.waits]
        if not batch:
            return
        for delivery in batch:
            delivery.taken = True
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
        bad = batching.failed(call.deliveries, payload) if call.gathered and error is None else ()
        for delivery in call.deliveries:
            try:
                if error is not None:
                    self.fail(delivery, error)
                elif not call.gathered and self._names_unknown(delivery, payload):
                    self.give_back(delivery)
                elif delivery in bad:
                    self.refuse(delivery, ErrorType.FUNCTION_ERROR, "the batch's result names it as failed")
                else:
                    self._settle_success(delivery, raw, payload)
            except Exception:  # noqa: BLE001 - nothing may be left behind
                _log.exception("outcome.not_settled", invocation=delivery.invocation)
                self._settler.say(delivery, NOT_NOW)
                self._forget(delivery)

    def _names_unknown(self, delivery: Delivery, payload: bytes) -> bool:
        """A batch that another router put together, of which the first one's numbers are all that is known here, and
        its result names some as failed: that one comes again, as the others do when their leases are over."""
        spec = _spec(self._state.known(delivery.source.function))
        return spec is not None and spec.batch is not None and batching.names_failures(payload)

    def adopt(self, call: Call) -> None:
        """It runs by another router's order, or by ours before the function went away and came back: from now on it is
        settled here."""
        found = self._unknown(call.reply)
        if found is None or (call.deliveries and call.deliveries[0].source is found.deliveries[0].source):
            return  # it is no delivery's, or was ours all along
        call.deliveries = found.deliveries
        (delivery,) = call.deliveries
        delivery.extended = float("-inf")  # its lease has run for some time
        delivery.taken = True
        delivery.source.held[delivery.sequence] = delivery
        self._running[call.reply.encode()] = call
        if function := self._state.functions.get(delivery.source.function):
            self._state.wake(function)  # else nobody would extend its lease

    def _unknown(self, subject: str) -> Call | None:
        """The call of a settle subject, as far as that tells."""
        name, ack = parse_settle(subject)
        try:
            key, redelivered, sequence, _ = parse_ack(ack)
        except ValueError:
            return None
        stream, _, consumer = key.decode().partition(".")
        function = self._state.known(name)
        source = next((s for s in function.sources if s.key == key), None) if function else None
        now = self._state.clock()
        call = Call("", subject, None, b"", now)
        delivery = Delivery(source or Source(name, stream, consumer), ack, redelivered, sequence, now)
        delivery.claimed = True  # else it would not run
        call.deliveries = (delivery,)
        return call

    def refuse(self, delivery: Delivery, kind: ErrorType, sentence: str) -> None:
        self.fail(delivery, CallError(kind, sentence, component=COMPONENT))

    def _settle_success(self, delivery: Delivery, raw: bytes | None, payload: bytes) -> None:
        spec = _spec(self._state.known(delivery.source.function))
        if not delivery.whole and _needs_message(delivery, spec):
            self._stored.fetch(delivery, lambda: self._settle_success(delivery, raw, payload), self._forget)
        else:
            self.conclude(delivery, settle.succeeded(delivery, raw, payload, spec))

    def fail(self, delivery: Delivery, error: CallError) -> None:
        """To be tried again, or given up."""
        if not delivery.whole:
            self._stored.fetch(delivery, lambda: self.fail(delivery, error), self._forget)
            return
        spec = _spec(self._state.known(delivery.source.function))
        self.conclude(delivery, settle.failed(delivery, error, spec, self._unix(), self._jitter(), self._room))

    def conclude(self, delivery: Delivery, verdict: Verdict) -> None:
        delivery.taken = True
        self._settler.carry_out(delivery, verdict, self._concluded)

    def _concluded(self, delivery: Delivery, verdict: Verdict) -> None:
        if verdict.again_in_s is not None:
            delivery.attempt += 1
            self._turns.run_at(self._state.clock() + verdict.again_in_s, delivery)
        else:
            self._forget(delivery)

    def _forget(self, delivery: Delivery) -> None:
        """It is no longer ours to look after; the next of its key may run."""
        delivery.drop()
        function = self._state.functions.get(delivery.source.function)
        if function is None:
            return
        if (following := self._turns.leave(delivery)) is not None:
            self._run(function, following, self._state.clock())
        self._pull(delivery.source)

    # taking back

    def waiting(self, function: Function, invocation: str) -> Delivery | None:
        """The delivery of that id, if it waits here: for a slot, its turn, its time, or a full batch. Raises `Started`
        when it has a slot."""
        name = function.name
        for call in self._running.values():
            for delivery in call.deliveries:
                if delivery.invocation == invocation and delivery.source.function == name:
                    if call.share is not None or call.left or call.adopted:
                        raise Started(invocation)
                    return delivery
        at_the_door = (delivery for delivery in self.at_the_door if delivery.source.function == name)
        waiting = chain(self._turns.of(name), at_the_door)
        return next((delivery for delivery in waiting if delivery.invocation == invocation), None)

    def cancel(self, function: Function, delivery: Delivery) -> None:
        """One that waits is not to run."""
        call = next((call for call in self._running.values() if delivery in call.deliveries), None)
        if call is not None:
            del self._running[call.reply.encode()]
            for pool in function.pools.values():
                pool.remove(call)
            if rest := [other for other in call.deliveries if other is not delivery]:
                for other in rest:
                    other.taken = False
                self._run_batch(function, rest, self._state.clock())
        else:
            self.at_the_door.discard(delivery)
            self._turns.remove(delivery)
        self.conclude(delivery, settle.cancelled(delivery, _spec(function)))

    def give_back(self, delivery: Delivery) -> None:
        """The stream has it, and gives it to whoever is to have it."""
        self._settler.say(delivery, GIVE_BACK)
        delivery.drop()

    def give_back_call(self, call: Call) -> None:
        """It has not run here, and will not."""
        self._running.pop(call.reply.encode(), None)
        for delivery in call.deliveries:
            self.give_back(delivery)

    def run_again(self, call: Call) -> None:
        """It has not begun, or nobody here knows how it ended. In an order it runs again from here, for what follows it
        is here as well, unless another router has settled it; else the stream gives it again, if that still has it."""
        self._running.pop(call.reply.encode(), None)
        for delivery in call.deliveries:
            spec = _spec(self._state.functions.get(delivery.source.function))
            if spec is not None and spec.ordered and delivery.is_held:
                self._stored.ask(delivery, partial(self._turns.run_at, self._state.clock(), delivery), self._forget)
            else:
                self._settler.say(delivery, GIVE_BACK)
                self._forget(delivery)

    def reline(self, function: Function, before: VersionSpec) -> None:
        """Another version is current. If it wants its events in another form, those that wait come again in that."""
        spec = _spec(function)
        if spec is None or (spec.batch, spec.ordered) == (before.batch, before.ordered):
            return
        for pool in function.pools.values():
            for call in pool.durable():
                self.give_back_call(call)
        self._let_go([function])

    def release(self, functions: Collection[Function]) -> None:
        """They are another router's now, or gone: what runs is settled there, the rest is given back."""
        self._let_go(functions)
        for source in chain.from_iterable(function.sources for function in functions):
            source.clear()
        gone = {function.name for function in functions}
        for subject in [s for s, call in self._running.items() if call.deliveries[0].source.function in gone]:
            del self._running[subject]

    def _let_go(self, functions: Collection[Function]) -> None:
        """Give back what does not run, and has not run: its end is being written down."""
        called = {delivery: call for call in self._running.values() for delivery in call.deliveries}
        for source in chain.from_iterable(function.sources for function in functions):
            for delivery in list(source.held.values()):
                call = called.get(delivery)
                if call.share is None if call is not None else not delivery.taken:
                    self.give_back(delivery)
        self._turns.forget({function.name for function in functions})

    # time

    def tick(self, now: float) -> None:
        for name, batch in self._turns.due_batches(now):
            if function := self._state.functions.get(name):
                self._run_batch(function, batch, now)
        for delivery in self._turns.due(now):
            if function := self._state.functions.get(delivery.source.function):
                self._run_fetched(function, delivery, now)

    def look_for_lost(self, now: float) -> None:
        """Give back that whose outcome was lost."""
        for call in list(self._running.values()):
            if call.left and now - call.left > OUTCOME_S:
                _log.warning("outcome.lost", invocation=call.invocation)
                self.run_again(call)

    def extend(self, function: Function, now: float) -> None:
        """Keep what is held of it."""
        for source in function.sources:
            for delivery in source.held.values():
                if now - delivery.extended >= EXTEND_S:
                    delivery.extended = now
                    self._settler.say(delivery, IN_PROGRESS)

    @property
    def running(self) -> int:
        return len(self._running)


class Started(Exception):
    """The call has a slot, or is on its way to one."""


def _spec(function: Function | None) -> VersionSpec | None:
    return function.current.spec if function is not None and function.current is not None else None


def _needs_message(delivery: Delivery, spec: VersionSpec | None) -> bool:
    """Whether its success cannot be settled by its numbers alone."""
    return delivery.source.is_due or delivery.is_call or (spec is not None and bool(spec.on_success or spec.ordered))
