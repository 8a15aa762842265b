"""The life of a node as the scaler sees it, as a table.

    REQUESTED → BOOTING → UP ⇄ DRAINING → EMPTY → (its lease ends) LOST → (the provider has it no more) REMOVED

SUSPECT is one that says nothing while its lease lasts. LOST is one whose lease is over: on purpose, because it was
emptied and taken away, or not; then it may come back, and is given up like one that never came.
"""

from enum import Enum

from mayfly_proto.states import IllegalMove


class State(Enum):
    REQUESTED = "requested"  # the provider was asked for it
    BOOTING = "booting"  # the provider has it; nobody has heard of it
    UP = "up"
    DRAINING = "draining"
    EMPTY = "empty"
    SUSPECT = "suspect"
    LOST = "lost"
    GIVEN_UP = "given up"  # it took too long
    REMOVED = "removed"


class Event(Enum):
    LISTED = "listed"  # the provider has it
    UNLISTED = "unlisted"
    JOINED = "joined"  # it has a lease
    ENDED = "ended"  # its lease is over
    SILENT = "silent"  # no report
    HEARD = "heard"
    DRAINS = "drains"
    EMPTIED = "emptied"
    RESUMED = "resumed"
    LATE = "late"


LIFE: dict[State, dict[Event, State]] = {
    State.REQUESTED: {
        Event.LISTED: State.BOOTING,
        Event.JOINED: State.UP,
        Event.LATE: State.GIVEN_UP,
    },
    State.BOOTING: {
        Event.JOINED: State.UP,
        Event.UNLISTED: State.REMOVED,
        Event.LATE: State.GIVEN_UP,
    },
    State.UP: {
        Event.DRAINS: State.DRAINING,
        Event.SILENT: State.SUSPECT,
        Event.ENDED: State.LOST,
    },
    State.DRAINING: {
        Event.EMPTIED: State.EMPTY,
        Event.RESUMED: State.UP,
        Event.SILENT: State.SUSPECT,
        Event.ENDED: State.LOST,
    },
    State.EMPTY: {
        Event.RESUMED: State.UP,
        Event.SILENT: State.SUSPECT,
        Event.ENDED: State.LOST,
    },
    State.SUSPECT: {
        Event.HEARD: State.UP,
        Event.ENDED: State.LOST,
    },
    State.LOST: {
        Event.JOINED: State.UP,
        Event.UNLISTED: State.REMOVED,
        Event.LATE: State.GIVEN_UP,
    },
    State.GIVEN_UP: {
        Event.JOINED: State.UP,
        Event.UNLISTED: State.REMOVED,
    },
    State.REMOVED: {},
}

PRESENT = (State.UP, State.DRAINING, State.EMPTY, State.SUSPECT)  # those that have a lease
COMING = (State.REQUESTED, State.BOOTING)


def move(state: State, event: Event) -> State:
    try:
        return LIFE[state][event]
    except KeyError:
        raise IllegalMove(f"node is {state.value}: {event.value} cannot happen to it") from None
