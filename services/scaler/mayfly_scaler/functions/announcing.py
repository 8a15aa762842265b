"""Says what the leader wants of functions, for people: each function now and then, with the latest."""

from mayfly_proto.records import FunctionTarget
from mayfly_scaler.decisions import Decisions, about_function
from mayfly_scaler.functions.function import Function
from mayfly_scaler.functions.targets import windows_of

AGAIN_S = 10.0


class Announcing:
    def __init__(self, decisions: Decisions) -> None:
        self._decisions = decisions
        self._said: dict[str, float] = {}
        self._unsaid: dict[str, tuple[Function, FunctionTarget, FunctionTarget]] = {}  # before, after

    def changed(self, function: Function, before: FunctionTarget, after: FunctionTarget) -> None:
        if function.name in self._unsaid:
            before = self._unsaid[function.name][1]
        self._unsaid[function.name] = (function, before, after)

    def say(self, now: float) -> None:
        """Those whose turn it is."""
        for name, (function, before, after) in list(self._unsaid.items()):
            if now - self._said.get(name, float("-inf")) >= AGAIN_S:
                del self._unsaid[name]
                self._said[name] = now
                self._say(function, before, after)

    def forget(self, function: str) -> None:
        self._said.pop(function, None)
        self._unsaid.pop(function, None)

    def _say(self, function: Function, before: FunctionTarget, after: FunctionTarget) -> None:
        about = about_function(function.name)
        if after.minimum != before.minimum:
            seen = {"busy": round(function.busy, 2), "before": before.minimum}
            why = after.why or "nothing asks for any"
            self._decisions.say(about, "minimum", count=after.minimum, seen=seen, why=why)
        if windows_of(after) != windows_of(before):
            self._decisions.say(about, "keep_alive", seen=_seen(function, after), why=_windows(after))


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
