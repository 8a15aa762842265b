"""The scaler hears of orders that found no place: it adds nodes, or shares out what there is."""

from contextlib import suppress

from mayfly_chassis.bus import Bus
from mayfly_chassis.errors import BusError
from mayfly_proto import codec, subjects
from mayfly_proto.messages import Blocked, Refusal
from mayfly_router.pool import Pool
from mayfly_router.state import State

EVERY_S = {  # at most, of one function; no other reason is the scaler's business
    Refusal.NO_ROOM: 0.05,
    Refusal.LABELS: 0.05,
    Refusal.NO_NODES: 0.05,
    Refusal.SHARE: 1.0,  # a function may be there for long; that it asks for more than before is worth a word
}
REMEMBERED = 1000  # words, until those that make no difference any more are forgotten


class Blockages:
    def __init__(self, bus: Bus, state: State) -> None:
        self._bus = bus
        self._state = state
        self._said: dict[tuple[str, str], float] = {}  # function, reason → when

    def say(self, pool: Pool, instances: int, reason: str) -> None:
        """These have no place."""
        every_s = EVERY_S.get(reason)
        now = self._state.clock()
        if every_s is None or now - self._said.get((pool.name, reason), float("-inf")) < every_s:
            return
        if len(self._said) >= REMEMBERED:
            oldest = now - max(EVERY_S.values())
            self._said = {key: at for key, at in self._said.items() if at > oldest}
        self._said[pool.name, reason] = now
        meta = Blocked(self._state.router, pool.name, pool.version, instances, pool.spec.memory_mb, reason)
        with suppress(BusError):  # it is said again as long as it is so
            self._bus.publish(subjects.BLOCKED, codec.pack(meta))
