"""What one function is to have besides what its calls ask for: by its own settings, and by the scaler's targets.

Settings come first. Windows that were learnt are for functions that leave it to the scaler (``keep_alive = "auto"``);
others keep their instances for as long as they say, and are not started ahead of time.
"""

from typing import NamedTuple

from mayfly_proto.records import FunctionTarget, VersionSpec

AS_THE_VERSION_SAYS = -1  # `Hold`'s word for it
NO_TARGET = FunctionTarget()


class KeepAlive(NamedTuple):
    """How long instances that are idle stay, in milliseconds; `AS_THE_VERSION_SAYS` where nothing else was said."""

    first: int  # of the last one that the function has
    further: int  # of the others


class Window(NamedTuple):
    """When an instance is to be ready before the next call comes."""

    begin_s: float  # since the function fell idle
    end_s: float

    def holds(self, idle_since: float | None, now: float) -> bool:
        """By the same sums as `next_begin`: rounded otherwise, a window could begin and not hold at the same moment."""
        return idle_since is not None and idle_since + self.begin_s <= now < idle_since + self.end_s

    def missed(self, idle_since: float | None, now: float) -> bool:
        """It is over, and nobody came."""
        return idle_since is not None and now >= idle_since + self.end_s

    def next_begin(self, idle_since: float | None, now: float) -> float:
        """It does not begin before then, whatever happens until then: who is called meanwhile falls idle later."""
        begin = now if idle_since is None else idle_since + self.begin_s
        return begin if begin > now else now + self.begin_s


def minimum(spec: VersionSpec, target: FunctionTarget, warm: bool) -> int:
    """Instances that are to be ready whatever the calls ask for; ``warm``: it is in its window."""
    return min(spec.max_instances, max(spec.min_instances, target.minimum, int(warm)))


def keep_alive(spec: VersionSpec, target: FunctionTarget) -> KeepAlive:
    if spec.keep_alive_s != "auto":
        return KeepAlive(AS_THE_VERSION_SAYS, AS_THE_VERSION_SAYS)
    return KeepAlive(_milliseconds(target.keep_alive_s), _milliseconds(target.further_keep_alive_s))


def window(spec: VersionSpec, target: FunctionTarget) -> Window | None:
    """None: it waits for its calls, or its keep-alive lasts until they come."""
    at_s, for_s = target.pre_warm_at_s, target.pre_warm_for_s
    if at_s is None or at_s <= 0 or for_s <= 0 or not spec.pre_warm or spec.keep_alive_s != "auto":
        return None
    linger_s = spec.idle_limit_s if target.keep_alive_s is None else target.keep_alive_s
    return Window(at_s, at_s + for_s) if at_s + for_s > linger_s else None


def _milliseconds(seconds: float | None) -> int:
    return AS_THE_VERSION_SAYS if seconds is None else max(0, round(1000 * seconds))
