"""An order carried out: nodes chosen, asked, and chosen again where one refuses."""

import asyncio

import msgspec
import structlog

from mayfly_activator import placement
from mayfly_activator.fleet import Fleet, Order
from mayfly_chassis.bus import Bus
from mayfly_chassis.errors import BusError, NoResponders
from mayfly_proto import codec, subjects
from mayfly_proto.messages import Activate, Activated, Refusal, Start, Started

ROUNDS = 3  # the first choice and two others
ANSWER_S = 1.0
UNREACHABLE = "unreachable"
NOBODY = (Refusal.NO_NODES, Refusal.LABELS)  # after a refusal: nobody but those who refused

_decode = codec.Unpacker(Started)
_log = structlog.get_logger()


class Starter:
    def __init__(self, bus: Bus, fleet: Fleet) -> None:
        self._bus = bus
        self._fleet = fleet

    async def start(self, order: Activate) -> Activated:
        """Place what can be placed within the order's budget."""
        placed: dict[str, str] = {}
        rest = list(order.instances)
        refused: set[str] = set()
        reasons: set[str] = set()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + order.budget_ms / 1000
        for _ in range(ROUNDS):
            candidates = self._fleet.candidates(order.function, order.version, refused)
            choice = placement.place(candidates, rest, order.memory_mb, order.labels)
            answers = await self._ask_all(order, choice.nodes)
            for name, started in answers.items():
                placed |= dict.fromkeys(started.accepted, name)
                if started.reason:
                    refused.add(name)
                    reasons.add(started.reason)
            rest = [instance for instance in rest if instance not in placed]
            if choice.rest and not (refused and choice.reason in NOBODY):
                reasons.add(choice.reason)
            if not rest or not choice.nodes or Refusal.STALE in reasons or loop.time() >= deadline:
                break
        reason = _reason(reasons)
        if rest and reason != Refusal.SLOTS:  # slots are free again in milliseconds
            _log.warning("activate.no_place", function=order.function, instances=len(rest), reason=reason)
        return Activated(placed, reason if rest else "")

    async def _ask_all(self, order: Activate, nodes: dict[str, list[str]]) -> dict[str, Started]:
        """One request for each node, all at once; they count as load before the first answer is in."""
        orders = {
            name: Order(order.function, order.version, tuple(instances), order.memory_mb)
            for name, instances in nodes.items()
        }
        for name, own in orders.items():
            self._fleet.ask(name, own)
        answers = await asyncio.gather(*(self._ask(order, name, instances) for name, instances in nodes.items()))
        for (name, own), started in zip(orders.items(), answers, strict=True):
            self._fleet.answered(name, own, started.accepted)
        return dict(zip(nodes, answers, strict=True))

    async def _ask(self, order: Activate, name: str, instances: list[str]) -> Started:
        meta = Start(order.router, order.epoch, order.function, order.version, instances, order.memory_mb)
        try:
            reply = await self._bus.request(subjects.node_start(name), codec.pack(meta), timeout_s=ANSWER_S)
            started, _ = _decode(reply.payload)
        except NoResponders:
            return Started([], UNREACHABLE)
        except (BusError, msgspec.MsgspecError, ValueError) as error:
            # It may be starting them: to say that it does not could exceed the function's limit. If the node is gone,
            # the router notices by its silence and orders anew.
            _log.warning("start.unanswered", node=name, instances=len(instances), error=str(error))
            return Started(instances)
        return started


def _reason(reasons: set[str]) -> str:
    """`NO_ROOM` ends the hope of those who wait, so it is the word only where every node says so."""
    if Refusal.STALE in reasons:
        return Refusal.STALE
    return min(reasons - {Refusal.NO_ROOM}, default=Refusal.NO_ROOM)
