"""Which events may go: those that every consumer is done with and that are older than the time they are kept.

The rule of acknowledgement has no exception: when nothing may go the stream fills up, and whoever publishes is told.
Other people's consumers count like ours. The window of time yields when the stream is more than half full.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from mayfly_registry.consumers import Info


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A stream as it was before its consumers were looked at: what came later is not touched."""

    first_sequence: int
    last_sequence: int
    size: int  # bytes
    size_limit: int  # bytes; 0 or less: none


def purge_below(kept: Kept, consumers: Iterable[Info], window_starts: int | None) -> int | None:
    """The sequence of the first event that stays, or None when all do.

    ``window_starts``: of the first event that is young enough to be kept; None when there is none.
    """
    end = kept.last_sequence + 1
    done = min((_first_needed(consumer, end) for consumer in consumers), default=end)
    full = kept.size_limit > 0 and kept.size > kept.size_limit / 2
    below = min(done, end if full or window_starts is None else window_starts, end)
    return below if below > kept.first_sequence else None


def _first_needed(consumer: Info, end: int) -> int:
    if not consumer.pending and not consumer.unacknowledged:
        return end
    return consumer.acknowledged_to + 1
