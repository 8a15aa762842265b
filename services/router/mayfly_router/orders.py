"""What a plan asks for, done: instances ordered from the activator; stopped, and held, at the workers."""

import secrets
from collections.abc import Callable, Coroutine
from contextlib import suppress

import msgspec
import structlog

from mayfly_chassis.bus import Bus
from mayfly_chassis.errors import BusError, NoResponders
from mayfly_proto import codec, subjects
from mayfly_proto.errors import CallError, ErrorType
from mayfly_proto.messages import Activate, Activated, Failed, Hold, Refusal, Stop
from mayfly_router import replies
from mayfly_router.blocked import Blockages
from mayfly_router.dispatch import Dispatch
from mayfly_router.function import Plan, Stopping
from mayfly_router.holds import Holding
from mayfly_router.pool import Pool
from mayfly_router.state import State

Background = Callable[[str, Coroutine[None, None, None]], object]

PLACEMENT_MS = 2000  # that the activator may take
ANSWER_S = 2.5  # until it is taken for dead
NO_ACTIVATOR = "no activator"

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_decode_activated = codec.Unpacker(Activated)
_decode_failed = codec.Unpacker(Failed)
_jitter = secrets.SystemRandom().random
_log = structlog.get_logger()


class Orders:
    """``doubted()`` hears that a node takes another router for the owner."""

    def __init__(
        self, bus: Bus, state: State, dispatch: Dispatch, background: Background, doubted: Callable[[], None]
    ) -> None:
        self._bus = bus
        self._state = state
        self._dispatch = dispatch
        self._background = background
        self._doubted = doubted
        self._blocked = Blockages(bus, state)

    def act(self, plan: Plan) -> None:
        """The new instances count as starting before anything is waited for: nobody orders them twice."""
        for pool, count in plan.orders:
            instances = [_new_instance() for _ in range(count)]
            pool.starts.order(instances, self._state.clock())
            self._background(f"activate {pool.name}", self._activate(pool, instances))
        for stopping in plan.stops:
            self.stop(stopping)
        for pool, count in plan.denied:
            self._blocked.say(pool, count, Refusal.SHARE)

    def stop(self, stopping: Stopping) -> None:
        pool = stopping.pool
        meta = Stop(self._state.router, self._state.members.epoch, pool.name, pool.version, stopping.number)
        self._publish(subjects.node_stop(stopping.node), codec.pack(meta))
        _log.info(
            "instances.stop", function=pool.name, version=pool.version, node=stopping.node, number=stopping.number
        )

    def hold(self, node: str, pool: Pool, holding: Holding) -> None:
        meta = Hold(self._state.router, self._state.members.epoch, pool.name, pool.version, *holding)
        self._publish(subjects.node_hold(node), codec.pack(meta))

    def on_failed(self, _subject: bytes, _reply: bytes, _raw: bytes | None, payload: bytes) -> None:
        """An accepted start came to nothing."""
        failed, _ = _decode_failed(payload)
        function = self._state.functions.get(failed.function)
        pool = function.pools.get(failed.version) if function else None
        if pool is None:
            return
        reason = CallError(
            ErrorType(failed.kind), failed.message, component=f"worker {failed.node}", traceback=failed.traceback
        )
        waiting = pool.start_failed(failed.instance, reason, self._state.clock(), _jitter())
        _log.warning(
            "start.failed",
            function=pool.name,
            version=pool.version,
            instance=failed.instance,
            node=failed.node,
            in_a_row=pool.starts.failures,
            error=failed.message,
        )
        for call in waiting:
            self._dispatch.fail(call, replies.init_failed(reason, call.invocation), pool)
        self._dispatch.touch(pool.name)

    async def _activate(self, pool: Pool, instances: list[str]) -> None:
        meta = Activate(
            self._state.router,
            self._state.members.epoch,
            pool.name,
            pool.version,
            instances,
            pool.spec.memory_mb,
            PLACEMENT_MS,
            pool.spec.node_labels,
        )
        try:
            reply = await self._bus.request(subjects.ACTIVATE, codec.pack(meta), timeout_s=ANSWER_S)
            answer, _ = _decode_activated(reply.payload)
        except NoResponders:
            self._answered(pool, instances, Activated({}, NO_ACTIVATOR))
        except (BusError, msgspec.MsgspecError, ValueError) as error:
            pool.starts.doubted(instances, self._state.clock())
            _log.warning("activate.unanswered", function=pool.name, instances=len(instances), error=str(error))
        else:
            self._answered(pool, instances, answer)
        self._dispatch.touch(pool.name)

    def _answered(self, pool: Pool, instances: list[str], answer: Activated) -> None:
        now = self._state.clock()
        for instance, name in answer.placed.items():
            pool.starts.placed(instance, name, now)
            self._state.expect(pool, name)
            node = self._state.nodes.get(name)
            if node is not None and not node.epoch:
                pool.starts.forget_node(name)  # it went while it was being asked
            elif node is not None:
                pool.starts.on_draining(name, node.draining)
        rest = [instance for instance in instances if instance not in answer.placed]
        if not rest:
            return
        if answer.reason == Refusal.STALE:
            self._doubted()
        if not pool.starts.refusals and answer.reason != Refusal.SLOTS:  # those are free again in milliseconds
            _log.warning("start.no_place", function=pool.name, version=pool.version, reason=answer.reason)
        self._blocked.say(pool, len(rest), answer.reason)
        if answer.reason == Refusal.NO_ROOM:
            self._state.shortage.add(pool)
        function = self._state.functions.get(pool.name)
        for call in function.not_placed(pool, rest, answer.reason, now) if function else ():
            self._dispatch.fail(call, replies.no_capacity(pool.name, answer.reason, call.invocation), pool)

    def _publish(self, subject: str, frame: bytes) -> None:
        with suppress(BusError):  # without a connection there is nobody to tell; what matters is told again
            self._bus.publish(subject, frame)


def _new_instance() -> str:
    """Short, unique wherever it was made, and fit for a subject."""
    number = secrets.randbits(52)
    digits = ""
    while number:
        number, digit = divmod(number, 36)
        digits = _DIGITS[digit] + digits
    return f"i{digits}"
