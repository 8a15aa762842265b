"""Whether anything was lost: decided from what was acknowledged, what the witness saw, and what lies in the DLQ."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tests.chaos.dead_letters import DeadLetter
from tests.chaos.functions import Event


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A *handling* is one event for one of the functions that must have it."""

    acknowledged: int  # events
    due: int  # handlings
    handled: int  # of these, at least once
    twice: int  # of these, more than once
    runs: int  # of handlers that came to their end, all told
    dead: int  # handlings in the DLQ and not handled
    missing: tuple[str, ...]  # handlings in neither
    unexplained: tuple[str, ...]  # dead letters without a reason
    disordered: tuple[str, ...]  # handled for the first time before one that came before it, of the same key

    @property
    def good(self) -> bool:
        return not (self.missing or self.unexplained or self.disordered)


def judge(
    events: Iterable[Event],
    acknowledged: Mapping[str, int],
    seen: Mapping[tuple[str, str], int],
    first: Mapping[str, list[str]],
    dead_letters: Iterable[DeadLetter],
) -> Verdict:
    """``acknowledged``: id → sequence. ``first``: function → ids as they were first handled. `witness` has the rest."""
    published = [event for event in events if event.id in acknowledged]
    letters = {(letter.function, letter.id): letter for letter in dead_letters}
    due = [(function, event.id) for event in published for function in event.functions]
    counts = Counter({handling: seen.get(handling, 0) for handling in due})
    unhandled = [handling for handling in due if not counts[handling]]
    return Verdict(
        acknowledged=len(published),
        due=len(due),
        handled=len(due) - len(unhandled),
        twice=sum(count > 1 for count in counts.values()),
        runs=counts.total(),
        dead=sum(handling in letters for handling in unhandled),
        missing=tuple(" ".join(handling) for handling in unhandled if handling not in letters),
        unexplained=tuple(f"{letter.function} {letter.id}" for letter in letters.values() if not letter.reason),
        disordered=tuple(_disordered(published, acknowledged, first)),
    )


def _disordered(
    published: Iterable[Event], acknowledged: Mapping[str, int], first: Mapping[str, list[str]]
) -> Iterable[str]:
    keyed = {event.id: event for event in published if event.key}
    latest: dict[tuple[str, str], int] = defaultdict(int)
    for function in {event.functions[-1] for event in keyed.values()}:
        for identity in first.get(function, ()):
            if identity in keyed:
                key, sequence = (function, keyed[identity].key), acknowledged[identity]
                if sequence < latest[key]:
                    yield f"{function} {identity}"
                latest[key] = max(latest[key], sequence)
