"""Whether this node is to be empty, by whose word, and how far that has come.

    ┌────┐  drain   ┌──────────┐  emptied   ┌───────┐
    │ UP │ ───────► │ DRAINING │ ─────────► │ EMPTY │
    └────┘ ◄─────── └──────────┘            └───────┘
       ▲    undrain                  undrain    │
       └────────────────────────────────────────┘

What a draining node has leaves in three steps, so that nothing is missed elsewhere:
1. What no owner holds goes: idle instances at once, busy ones after their calls. What is held goes on serving until its
   owner has as much ready on other nodes, and stops it; or until the cordon's limit.
2. All the rest goes, again after its calls.
3. Calls that run beyond their limit are answered for, and ended.

The word is a leading scaler's, fenced by its epoch, and can be taken back; or it is the order to stop, which cannot.
A worker that is killed forgets it: the next one of this name is up, and is told again.
"""

from enum import Enum

from mayfly_proto.messages import Refusal
from mayfly_proto.states import IllegalMove
from mayfly_proto.states import Node as State


class Event(Enum):
    DRAIN = "drain"
    UNDRAIN = "undrain"
    EMPTIED = "emptied"


NODE: dict[State, dict[Event, State]] = {
    State.UP: {Event.DRAIN: State.DRAINING, Event.UNDRAIN: State.UP},
    State.DRAINING: {Event.DRAIN: State.DRAINING, Event.UNDRAIN: State.UP, Event.EMPTIED: State.EMPTY},
    State.EMPTY: {Event.DRAIN: State.EMPTY, Event.UNDRAIN: State.UP},
}


def move(state: State, event: Event) -> State:
    try:
        return NODE[state][event]
    except KeyError:
        raise IllegalMove(f"node is {state.value}: {event.value} cannot happen to it") from None


class Leaving(Enum):
    """What has to go now."""

    NOTHING = "nothing"
    SPARE = "spare"  # what is not held
    ALL = "all"
    RUNNING = "running"  # all, and the calls in it


class Cordon:
    """``held_limit_s``: how long a node waits for owners; ``running_limit_s``: and then for calls."""

    def __init__(self, held_limit_s: float, running_limit_s: float) -> None:
        self.state = State.UP
        self.stopping = False
        self._held_limit_s = held_limit_s
        self._running_limit_s = running_limit_s
        self._scaler_epoch = 0
        self._since = 0.0
        self._released_at: float | None = None  # when nothing was held any more

    @property
    def open(self) -> bool:
        """The node takes new instances."""
        return self.state is State.UP

    def order(self, on: bool, scaler_epoch: int, now: float) -> str:
        """A scaler's word. Returns a Refusal, or "" when it is done."""
        if scaler_epoch < self._scaler_epoch:
            return Refusal.STALE
        self._scaler_epoch = scaler_epoch
        if on:
            self._drain(now)
        elif self.stopping:
            return Refusal.DRAINING
        else:
            self.state = move(self.state, Event.UNDRAIN)
        return ""

    def stop(self, now: float) -> None:
        """For good."""
        self.stopping = True
        self._drain(now)

    def _drain(self, now: float) -> None:
        if self.open:
            self._since = now
            self._released_at = None
        self.state = move(self.state, Event.DRAIN)

    def step(self, *, held: bool, left: bool, now: float) -> Leaving:
        """``held``: an owner has yet to replace something; ``left``: there is any instance at all."""
        if self.state is not State.DRAINING:
            return Leaving.NOTHING
        if not left:
            self.state = move(self.state, Event.EMPTIED)
            return Leaving.NOTHING
        if self._released_at is None:
            if held and now - self._since < self._held_limit_s:
                return Leaving.SPARE
            self._released_at = now
        return Leaving.ALL if now - self._released_at < self._running_limit_s else Leaving.RUNNING
