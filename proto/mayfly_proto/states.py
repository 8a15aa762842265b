"""The life of an instance as a table; the diagrams in the docs are drawn from it.

A state machine here is a dict of dicts and ten lines of engine: an illegal event is an error that names both.
"""

from enum import Enum


class Instance(Enum):
    STARTING = "starting"
    IDLE = "idle"
    BUSY = "busy"
    DRAINING = "draining"  # takes no more calls
    STOPPED = "stopped"
    FAILED = "failed"  # never became ready, crashed, was killed for time or memory


class Event(Enum):
    READY = "ready"
    TAKE = "take"  # a call goes in
    FREE = "free"  # its last call came out
    DRAIN = "drain"
    GONE = "gone"  # the process ended as it was told to
    DIE = "die"  # the process ended otherwise


INSTANCE: dict[Instance, dict[Event, Instance]] = {
    Instance.STARTING: {
        Event.READY: Instance.IDLE,
        Event.DRAIN: Instance.DRAINING,
        Event.DIE: Instance.FAILED,
    },
    Instance.IDLE: {
        Event.TAKE: Instance.BUSY,
        Event.DRAIN: Instance.DRAINING,
        Event.DIE: Instance.FAILED,
    },
    Instance.BUSY: {
        Event.TAKE: Instance.BUSY,
        Event.FREE: Instance.IDLE,
        Event.DRAIN: Instance.DRAINING,
        Event.DIE: Instance.FAILED,
    },
    Instance.DRAINING: {
        Event.READY: Instance.DRAINING,
        Event.FREE: Instance.DRAINING,
        Event.DRAIN: Instance.DRAINING,
        Event.GONE: Instance.STOPPED,
        Event.DIE: Instance.FAILED,
    },
    Instance.STOPPED: {},
    Instance.FAILED: {},
}


class Node(Enum):
    """What a worker says of itself."""

    UP = "up"
    DRAINING = "draining"  # takes no new instances; those there leave
    EMPTY = "empty"  # drained: nothing runs here any more, and it may be taken away


class Invocation(Enum):
    """What is known of a durable call. Only the last word is kept."""

    PENDING = "pending"  # accepted; it waits or runs
    SCHEDULED = "scheduled"  # for later
    RETRYING = "retrying"  # failed, and will run again
    SUCCEEDED = "succeeded"
    FAILED = "failed"  # for good; a dead letter has it
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        return self in (Invocation.SUCCEEDED, Invocation.FAILED, Invocation.CANCELLED)


class IllegalMove(Exception):
    """This event cannot happen in this state: a bug, not bad luck."""


def move(state: Instance, event: Event) -> Instance:
    try:
        return INSTANCE[state][event]
    except KeyError:
        raise IllegalMove(f"instance is {state.value}: {event.value} cannot happen to it") from None
