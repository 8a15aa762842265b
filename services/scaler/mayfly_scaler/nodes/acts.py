"""What the leader does to nodes: one thing at a time to each, and only while it leads."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
import structlog

from mayfly_chassis.errors import BusError
from mayfly_chassis.service import Chassis
from mayfly_proto import codec, subjects
from mayfly_proto.messages import Drain, Drained, Refusal
from mayfly_scaler.decisions import NODES, Decisions, about_node
from mayfly_scaler.leader import Leader
from mayfly_scaler.nodes.backoff import Backoff, Health
from mayfly_scaler.nodes.drains import Act, Step
from mayfly_scaler.nodes.fleet import OPERATOR, Fleet
from mayfly_scaler.nodes.life import State
from mayfly_scaler.nodes.providers.provider import Provider, ProviderError
from mayfly_scaler.nodes.targets import Targets

ANSWER_S = 2.0
REMOVE_AGAIN_S = 10.0  # after which a provider is asked again to take a node away that it still has

_decode_drained = codec.Unpacker(Drained)
_log = structlog.get_logger()


class Acts:
    def __init__(
        self,
        chassis: Chassis,
        leader: Leader,
        decisions: Decisions,
        targets: Targets,
        fleet: Fleet,
        provider: Provider | None,
        clock: Callable[[], float],
        done: Callable[[], None],
    ) -> None:
        self.health = Health()
        self._chassis = chassis
        self._leader = leader
        self._decisions = decisions
        self._targets = targets
        self._fleet = fleet
        self._provider = provider
        self._clock = clock
        self._done = done
        self._busy: dict[str, asyncio.Task[None]] = {}
        self._removing: defaultdict[str, Backoff] = defaultdict(Backoff)  # one that cannot go stands in no other's way
        self._stopping: dict[str, int] = {}  # epochs of workers that were told to stop: these never resume

    @property
    def tasks(self) -> list[asyncio.Task[None]]:
        """Under way."""
        return list(self._busy.values())

    def step(self, step: Step) -> None:
        """One that is under way, or waits for the provider, is left for later."""
        match step.act:
            case Act.DRAIN:
                self._begin(step.node, self._tell, True)
            case Act.RESUME:
                lease = self._fleet[step.node].lease
                if lease is not None and self._stopping.get(step.node) != lease.epoch:
                    self._begin(step.node, self._tell, False)
            case Act.FORGET:
                self._begin(step.node, self._targets.undrain)
            case Act.REMOVE:
                if not self._removing[step.node].waits(self._clock()):
                    self._begin(step.node, self._remove)

    def add(self, nodes: Sequence[str]) -> None:
        for node in nodes:
            self._fleet.requested(node, self._clock())
            self._removing.pop(node, None)
            self._begin(node, self._add)

    def drain(self, nodes: Sequence[str], why: str) -> None:
        for node in nodes:
            self._begin(node, self._targets.drain, why)

    def undrain(self, nodes: Sequence[str]) -> None:
        for node in nodes:
            self._begin(node, self._targets.undrain)

    def failed(self, backoff: Backoff, why: str) -> None:
        """The provider did, or something of it."""
        wait_s = backoff.fail(self._clock())
        if wait_s is not None and self._leader.leading:
            seen = {"failures": backoff.failures, "wait_s": wait_s}
            self._decisions.say(NODES, "back_off", count=backoff.failures, seen=seen, why=why)

    def _begin(self, node: str, act: Callable[..., Awaitable[object]], *args: Any) -> None:
        if node in self._busy or not self._leader.leading:
            return
        self._busy[node] = self._chassis.background(f"node {node}", self._carry_out(node, act, args))

    async def _carry_out(self, node: str, act: Callable[..., Awaitable[object]], args: tuple[Any, ...]) -> None:
        try:
            await act(node, *args)
        except BusError as error:
            _log.warning("node.act_failed", node=node, error=str(error))
        finally:
            del self._busy[node]
        self._done()

    async def _tell(self, node: str, on: bool) -> None:
        """Its lease says so in a moment; if it does not, it is told again."""
        drain = Drain(self._leader.scaler, self._leader.epoch, on)
        reply = await self._chassis.bus.request(subjects.node_drain(node), codec.pack(drain), timeout_s=ANSWER_S)
        try:
            drained, _ = _decode_drained(reply.payload)
        except (msgspec.MsgspecError, ValueError) as error:
            _log.warning("node.not_understood", node=node, error=str(error))
            return
        target = self._targets.nodes.get(node)
        if drained.reason:
            _log.info("node.refuses", node=node, on=on, reason=drained.reason)
            if drained.reason == Refusal.DRAINING:
                self._stopping[node] = drained.node_epoch
        elif target is not None and target.by == OPERATOR and on:
            self._decisions.say(about_node(node), "drain", why=_because("an operator wants it empty", target.why))
        elif target is None and not on:
            self._decisions.say(about_node(node), "undrain", why="nobody wants it empty any more")

    async def _add(self, node: str) -> None:
        assert self._provider is not None
        try:
            await self._provider.add(node)
        except ProviderError as error:
            self._fleet.not_requested(node)
            self.failed(self.health.adding, str(error))
        else:
            self.health.adding.succeed()

    async def _remove(self, node: str) -> None:
        assert self._provider is not None
        if node not in self._fleet:
            return
        member = self._fleet[node]
        first = not member.leaving
        member.leaving = True
        if first:
            never_came = member.state is State.GIVEN_UP
            why = "it did not come in time" if never_came else "it is empty, and not needed"
            self._decisions.say(about_node(node), "remove", why=why)
        try:
            await self._provider.remove(node)
        except ProviderError as error:
            member.leaving = False
            self.failed(self._removing[node], str(error))
        else:
            self._removing[node].succeed(quiet_until=self._clock() + REMOVE_AGAIN_S)


def _because(reason: str, words: str) -> str:
    return f"{reason}: {words}" if words else reason
