"""The worker nodes: who lives, who has accepted this router, what each can take, and what becomes of calls on a node
that is lost.

A node counts only after it has answered `Adopt`: with that answer it tells what of ours runs there, and from then on it
refuses whoever was the owner before. It is asked when its lease appears or changes hands, when the members change, when
either side's connection was broken, and after silence.

Its death shows, in order of speed: by the server's disconnect event (then nobody listens on its subjects), by three
silent seconds, by the end of its lease.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress

import msgspec
import structlog

from mayfly_chassis.bus import Bus
from mayfly_chassis.errors import BusError, NoResponders
from mayfly_proto import records, states, storage, subjects
from mayfly_proto.messages import Adopted, CallView
from mayfly_proto.records import Client, NodeLease, Route, RouterSeen
from mayfly_router import adoption, replies
from mayfly_router.call import Call
from mayfly_router.dispatch import Dispatch
from mayfly_router.nodes import Node, reconcile
from mayfly_router.orders import Background
from mayfly_router.pool import Pool
from mayfly_router.state import State

SILENCE_S = 3.0
LOOK_S = 0.25  # from one look for silent nodes to the next
RETRY_S = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
ATTEMPTS = 3  # of an idempotent call that loses its node


class Counts(msgspec.Struct, gc=False):
    ready: int = 0
    starting: int = 0


class Heartbeat(msgspec.Struct):
    """What a router reads of a `NodeLoad`. Its functions are looked at only while something starts there."""

    node: str
    epoch: int
    memory_mb: int
    memory_used_mb: int
    routers: dict[str, RouterSeen]
    instances: msgspec.Raw


_decode_heartbeat = msgspec.json.Decoder(Heartbeat).decode
_decode_instances = msgspec.json.Decoder(dict[str, dict[str, Counts]]).decode
_log = structlog.get_logger()


class Fleet:
    """``adopted(call)`` hears of durable calls that run by another router's order."""

    def __init__(
        self, bus: Bus, state: State, dispatch: Dispatch, background: Background, adopted: Callable[[Call], None]
    ) -> None:
        self._bus = bus
        self._state = state
        self._dispatch = dispatch
        self._background = background
        self._adopted = adopted
        self._routes: dict[str, dict[tuple[int, str], Route]] = {}  # function → (version, node) → route
        self._asking: dict[Node, asyncio.Event] = {}  # set: ask again at once
        self._unasked: set[Node] = set()  # they have not had their chance to answer yet
        self._suspects: set[Node] = set()  # their connection has ended
        self._next_look = 0.0

    # what NATS says

    def on_lease(self, name: str, value: bytes | None) -> None:
        node = self._state.node(name)
        if value is None:
            self.lose(node, "its lease has ended")
            node.expire()
            self._refresh(node)
            if not node.shares:
                del self._state.nodes[name]
            return
        lease = records.decode(value, NodeLease)
        if node.epoch and lease.epoch != node.epoch:
            self.lose(node, "its worker was started anew")
        node.heard = self._state.clock()
        usable, drained = node.usable, node.draining
        if node.renew(lease):
            self.adopt(node)
        elif (node.usable, node.draining) != (usable, drained):
            self._refresh(node)
        if node.draining is not drained:
            for pool in self._state.coming.get(name, ()):
                pool.starts.on_draining(name, node.draining)

    def on_route(self, key: str, value: bytes | None) -> None:
        name, version, function = storage.parse_route_key(key)
        route = None if value is None else records.decode(value, Route)
        routes = self._routes.setdefault(function, {})
        if route is None:
            routes.pop((version, name), None)
        else:
            routes[version, name] = route
        if not routes:
            del self._routes[function]
        if (owned := self._state.owned(function)) and (pool := owned.pools.get(version)):
            self._route(pool, name, route)

    def has_none(self, function: str) -> bool:
        """There is no instance of it in the Route Cache."""
        return function not in self._routes

    def equip(self, pool: Pool) -> None:
        """A pool that is new here: what the Route Cache has for it."""
        for (version, name), route in self._routes.get(pool.name, {}).items():
            if version == pool.version:
                self._route(pool, name, route)

    def on_load(self, _subject: bytes, _reply: bytes, _raw: bytes | None, payload: bytes) -> None:
        """A heartbeat."""
        load = _decode_heartbeat(payload)
        node = self._state.nodes.get(load.node)
        if node is None or node.epoch != load.epoch:
            return
        now = node.heard = self._state.clock()
        seen = load.routers.get(self._state.router)
        if not node.adopted or seen is None:
            self.adopt(node)
            return
        findings = reconcile(node.inflight, seen.last_seq, seen.calls, node.unseen)
        node.unseen = findings.unseen
        self._settle(node, findings.finished, now)
        if findings.lost:
            self.adopt(node)  # the question goes the way of the frames: its answer is certain
        self._reopen(node, now)
        for pool in self._state.shortage.relieved(load.memory_mb - load.memory_used_mb, self._wants_room):
            pool.starts.retry()
            self._dispatch.touch(pool.name)
        if coming := self._state.coming.get(node.name):
            self._compare(node, coming, _decode_instances(load.instances), now)

    def _reopen(self, node: Node, now: float) -> None:
        """It has spoken: what it refused before it may take now."""
        refusing, node.refusing = node.refusing, set()
        for share in refusing:
            share.closed = False
            share.pool.refresh(share, now)
            self._dispatch.serve(share.pool, now)

    def _compare(self, node: Node, coming: set[Pool], instances: dict[str, dict[str, Counts]], now: float) -> None:
        """What we take for starting there with what the node says."""
        for pool in list(coming):
            share = pool.shares.get(node.name)
            counts = instances.get(pool.name, {}).get(str(pool.version), Counts())
            if not counts.starting and counts.ready <= len(share.instances if share else ()):
                pool.starts.forget_ended(node.name, now)  # the Route Cache has all that there is
            if not pool.starts.on(node.name):
                coming.discard(pool)
        if not coming:
            del self._state.coming[node.name]

    def disconnected(self, client: Client) -> None:
        """The server's word that a connection has ended: the worker's end, or it is connecting again."""
        for node in self._state.nodes.values():
            if node.client == client:
                self._suspects.add(node)
                self.adopt(node)

    # the handshake

    def adopt_all(self) -> None:
        """The members or the connection have changed: nothing is ordered until every node had its chance to answer,
        else what runs there already is ordered twice."""
        self._dispatch.may_order = False
        for node in self._state.nodes.values():
            if node.epoch and self._is_member:
                node.heard = self._state.clock()
                self._unasked.add(node)
            self.adopt(node)
        self._allow_orders()

    def adopt(self, node: Node) -> None:
        """Ask the node to take this router for the owner; until it answers nothing is sent to it."""
        if node.usable and self._is_member:
            node.pause()  # to close all that is there, and open it again, would cost as much as all of it
        else:
            self._close(node)
        if not self._is_member:
            return  # joining asks all of them
        again = self._asking.get(node)
        if again is not None:
            again.set()
        else:
            self._asking[node] = asyncio.Event()
            self._background(f"adopt {node.name}", self._ask(node, self._asking[node]))

    @property
    def _is_member(self) -> bool:
        return self._state.router in self._state.members.members

    async def _ask(self, node: Node, again: asyncio.Event) -> None:
        attempt = 0
        try:
            while node.epoch and not node.adopted and self._is_member:
                again.clear()
                if not await self._asked(node):
                    self._suspects.discard(node)
                    if node.paused:
                        self._close(node)
                    self._given_a_chance(node)
                    with suppress(TimeoutError):
                        async with asyncio.timeout(RETRY_S[min(attempt, len(RETRY_S) - 1)]):
                            await again.wait()
                    attempt += 1
        finally:
            del self._asking[node]
            self._given_a_chance(node)

    async def _asked(self, node: Node) -> bool:
        """Ask once. True when it need not be waited before asking again: it answered, or the question was outdated."""
        members = self._state.members
        asked = (members, node.epoch, node.client, self._bus.reconnects)
        sent = node.seq
        try:
            answer = await adoption.ask(self._bus, self._state, node)
        except NoResponders:
            if node in self._suspects:
                self.lose(node, "its connection has ended")
            return False
        except (BusError, msgspec.MsgspecError, ValueError) as error:
            _log.warning("node.adopt_unanswered", node=node.name, error=str(error))
            return False
        if asked != (self._state.members, node.epoch, node.client, self._bus.reconnects):
            return True
        if answer.node_epoch != node.epoch:
            return False
        self._welcome(node, answer, sent)
        return True

    def _welcome(self, node: Node, answer: Adopted, sent: int) -> None:
        now = node.heard = self._state.clock()
        self._suspects.discard(node)
        running = [call.seq for call in answer.calls]
        unseen = range(answer.last_seq + 1, sent + 1)  # they left before the question and had not come when it did
        findings = reconcile(node.inflight, answer.last_seq, running, unseen)
        node.unseen = set()
        node.seq = max(node.seq, answer.last_seq)
        for view in answer.calls:
            self._recognise(node, view, now)
        for instance in answer.instances:
            if instance.state != states.Instance.STARTING.value:
                continue
            function = self._state.owned(instance.function)
            pool = function.pools.get(instance.version) if function else None
            if pool is not None:
                pool.adopt_start(instance.instance, node, now)
                self._state.expect(pool, node.name)
        paused = node.paused
        node.set_adopted(True)
        self._settle(node, findings.finished, now)
        self._send_again(node, findings.lost, now)
        if paused:
            self._resume(node, now)
        else:
            self._refresh(node)
        _log.info("node.adopted", node=node.name, epoch=node.epoch, calls=len(answer.calls))

    def _recognise(self, node: Node, view: CallView, now: float) -> None:
        """A call that runs there. One that another owner has sent, or this one in a former life, is taken over; one
        whose function went away and came back moves to the slots that it has now."""
        function = self._state.owned(view.function)
        pool = function.pools.get(view.version) if function else None
        call = node.inflight.get(view.seq)
        if call is None:
            call = node.inflight[view.seq] = Call(view.invocation, view.reply, None, b"", now)
            call.deadline = now + view.budget_ms / 1000
            call.adopted = True
            if view.seq in node.written_off:
                call.reply = ""  # it has had its answer
        if call.reply.startswith(subjects.SETTLE_PREFIX):
            self._adopted(call)
        before = call.share.pool if call.share else None
        if pool is not None and pool is not before:
            if call.share is not None:
                call.share.pool.vacate(call.share, now)
            call.share = pool.occupy(node, now)
        if function is not None:
            self._dispatch.touch(function.name)

    def _close(self, node: Node) -> None:
        node.set_adopted(False)
        self._refresh(node)

    def _resume(self, node: Node, now: float) -> None:
        for share in list(node.shares):
            if share.pool.queue:
                self._dispatch.serve(share.pool, now)

    def _given_a_chance(self, node: Node) -> None:
        self._unasked.discard(node)
        self._allow_orders()

    def _allow_orders(self) -> None:
        if not self._unasked and not self._dispatch.may_order:
            self._dispatch.may_order = True
            self._dispatch.touch_all()

    # losses

    def tick(self, now: float, paused_s: float) -> None:
        """Look for silent nodes. ``paused_s``: time in which this process itself did not run, or had no connection."""
        if now < self._next_look and not paused_s:
            return
        self._next_look = now + LOOK_S
        for node in self._state.nodes.values():
            node.heard += paused_s
            if now - node.heard > SILENCE_S and (node.adopted or (node.epoch and node.inflight)):
                node.heard = now
                self.lose(node, f"nothing heard for {SILENCE_S:g} s")
                self.adopt(node)

    def lose(self, node: Node, reason: str) -> None:
        """Answer for the node, or have its calls run elsewhere."""
        now = self._state.clock()
        calls, node.inflight = node.inflight, {}
        node.unseen = set()
        node.set_adopted(False)
        for pool in self._state.coming.pop(node.name, ()):
            pool.starts.forget_node(node.name)
            self._dispatch.touch(pool.name)
        self._refresh(node)
        if calls:
            _log.warning("node.lost", node=node.name, reason=reason, in_flight=len(calls))
        again = []
        for seq, call in calls.items():
            if call.share is None:
                self._dispatch.fail(call, replies.node_lost(node.name, call.invocation))
                continue
            pool = call.share.pool
            pool.vacate(call.share, now)
            if self._state.owned(pool.name) is None:
                continue  # its new owner answers
            if not call.adopted and call.attempt < _attempts(call, pool):
                call.try_again()
                again.append(call)
            else:
                node.written_off.add(seq)
                self._dispatch.fail(call, replies.node_lost(node.name, call.invocation), pool)
        self._dispatch.requeue(again, now)

    def _settle(self, node: Node, finished: list[int], now: float) -> None:
        """Free what a lost `Done` left occupied."""
        for seq in finished:
            self._dispatch.free(node.inflight.pop(seq), now)
        if finished:
            _log.warning("done.lost", node=node.name, calls=len(finished))

    def _send_again(self, node: Node, lost: list[int], now: float) -> None:
        """These frames never came."""
        calls = [node.inflight.pop(seq) for seq in lost]
        for call in calls:
            assert call.share is not None
            call.share.pool.vacate(call.share, now)
        self._dispatch.requeue(calls, now)
        if calls:
            _log.warning("frames.lost", node=node.name, calls=len(calls))

    def _route(self, pool: Pool, name: str, route: Route | None) -> None:
        now = self._state.clock()
        pool.route(self._state.node(name), route, now)
        self._state.restated.add(pool.name)
        if function := self._state.functions.get(pool.name):
            self._dispatch.trim(function, now)
        self._dispatch.serve(pool, now)
        self._dispatch.attend(pool.name)

    def _refresh(self, node: Node) -> None:
        now = self._state.clock()
        for share in list(node.shares):
            share.pool.refresh(share, now)
            self._state.restated.add(share.pool.name)
            self._dispatch.serve(share.pool, now)
            self._dispatch.attend(share.pool.name)

    def _wants_room(self, pool: Pool) -> bool:
        function = self._state.functions.get(pool.name)
        return function is not None and bool(pool.queue) and function.room(self._state.clock()) > 0


def _attempts(call: Call, pool: Pool) -> int:
    """How often it may be run, if it is lost each time."""
    if call.deliveries:
        return pool.spec.retries.attempts
    return ATTEMPTS if pool.spec.idempotent else 1
