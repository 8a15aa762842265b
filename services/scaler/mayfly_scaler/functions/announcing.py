"""Says what the leader wants of functions, for people: each function now and then, with the latest.

Thousands of functions that learn would fill the stream that keeps what was said of nodes. So only some are said in each
second, minimums before windows, and a function's windows once in ten minutes.
"""

from itertools import islice
from math import inf
from typing import NamedTuple

from mayfly_proto.records import FunctionTarget
from mayfly_scaler.decisions import Decisions, about_function
from mayfly_scaler.functions.function import Function
from mayfly_scaler.functions.targets import windows_of

MINIMUM, KEEP_ALIVE = "minimum", "keep_alive"  # what is decided, by the names that `Decision` has for it
AGAIN_S = {MINIMUM: 10.0, KEEP_ALIVE: 600.0}
AT_ONCE = 5  # of each, in a second


class _Unsaid(NamedTuple):
    function: Function
    before: FunctionTarget  # as it was said last
    after: FunctionTarget


class Announcing:
    def __init__(self, decisions: Decisions) -> None:
        self._decisions = decisions
        self._said: dict[tuple[str, str], float] = {}  # what of which function → when
        self._unsaid: dict[str, dict[str, _Unsaid]] = {MINIMUM: {}, KEEP_ALIVE: {}}

    def changed(self, function: Function, before: FunctionTarget, after: FunctionTarget) -> None:
        if after.minimum != before.minimum:
            self._note(MINIMUM, function, before, after)
        if windows_of(after) != windows_of(before):
            self._note(KEEP_ALIVE, function, before, after)

    def say(self, now: float) -> None:
        """Those whose turn it is. To be called once a second."""
        for what, unsaid in self._unsaid.items():
            since = now - AGAIN_S[what]
            due = (name for name in unsaid if self._said.get((what, name), -inf) <= since)
            for name in list(islice(due, AT_ONCE)):
                self._said[what, name] = now
                self._say(what, unsaid.pop(name))

    def forget(self, function: str) -> None:
        for what, unsaid in self._unsaid.items():
            unsaid.pop(function, None)
            self._said.pop((what, function), None)

    def _note(self, what: str, function: Function, before: FunctionTarget, after: FunctionTarget) -> None:
        unsaid = self._unsaid[what]
        known = unsaid.get(function.name)
        unsaid[function.name] = _Unsaid(function, known.before if known else before, after)

    def _say(self, what: str, change: _Unsaid) -> None:
        function, before, after = change
        about = about_function(function.name)
        if what == MINIMUM and after.minimum != before.minimum:
            seen = {"busy": round(function.busy, 2), "before": before.minimum}
            why = after.why or "nothing asks for any"
            self._decisions.say(about, what, count=after.minimum, seen=seen, why=why)
        elif what == KEEP_ALIVE and windows_of(after) != windows_of(before):
            self._decisions.say(about, what, seen=_seen(function, after), why=_windows(after))


def _seen(function: Function, target: FunctionTarget) -> dict[str, float | int | None]:
    learning = function.learning
    price = learning.price
    return {
        "pauses": learning.idle.count,
        "further_pauses": learning.further.count,
        "cold_ms": round(1000 * price.cold_s, 1),
        "memory_mb": round(1024 * price.memory_gb, 1),
        "keep_alive_s": target.keep_alive_s,
        "further_keep_alive_s": target.further_keep_alive_s,
        "pre_warm_at_s": target.pre_warm_at_s,
    }


def _windows(target: FunctionTarget) -> str:
    if target.keep_alive_s is None:
        return "too few pauses are known: as its version says"
    kept = f"an idle instance is worth its memory for {target.keep_alive_s:g} s"
    if target.pre_warm_at_s is None:
        return kept
    return f"{kept}, and again from {target.pre_warm_at_s:g} s on for {target.pre_warm_for_s:g} s"
