"""One function, as the scaler sees it: reports and figures in, a target out. Time is an argument."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from mayfly_proto.records import FunctionLoad, FunctionTarget, ScaleOn, VersionSpec
from mayfly_scaler.functions import minimum, scale_on
from mayfly_scaler.functions.learning import Learning
from mayfly_scaler.functions.minimum import Proposal
from mayfly_scaler.functions.usage import NONE, Usage
from mayfly_scaler.functions.windows import Windows
from mayfly_scaler.peak import Peak
from mayfly_scaler.told import REPORT_S, goes_on

FLOOR_S = 30.0  # for which a floor outlasts the calls that asked for it
LONGEST_STEP_S = 2.0  # of the average: one sample after a long rest is no load
SETTLED = 0.01  # slots busy
DEMAND_S = 5.0  # the same for what a function could use of a full cluster


class Figures(NamedTuple):
    """What a function may scale on, besides what its owner reports."""

    custom: Callable[[str], float | None] = lambda _name: None
    usage: Usage = NONE
    provisioned: int = 0


class Function:
    __slots__ = ("_calls", "_demand", "_floor", "_scaled", "_updated", "busy", "learning", "name")

    def __init__(self, name: str, learning: Learning) -> None:
        self.name = name
        self.learning = learning
        self.busy = 0.0  # slots, on average over the last seconds
        self._floor = Peak(FLOOR_S)
        self._scaled = Peak(scale_on.STABLE_S)
        self._demand = Peak(DEMAND_S)  # slots
        self._calls: int | None = None  # when its owner reported last
        self._updated: float | None = None

    def __repr__(self) -> str:
        return f"<Function {self.name}: {self.busy:.2f} busy, {self.learning}>"

    def heard(self, load: FunctionLoad, now: float, elapsed_s: float = REPORT_S) -> bool:
        """A report of its owner, so long after the one before; whether there is anything new in it. Those in which
        there is nothing may be left out."""
        calls, self._calls = self._calls, load.calls
        if load.calls == calls and not goes_on(load):
            return False
        self.learning.heard(load)
        finished = max(0, load.calls - calls) if calls is not None else 0
        flowing = finished * load.service_ms / 1000 / max(elapsed_s, 1e-3)  # calls too short to be seen under way
        self._demand.add(max(load.in_flight + load.queued, flowing), now)
        return True

    def resume(self, target: FunctionTarget, now: float) -> None:
        """What was wanted before this process knew the function: until the figures are in, it is not taken back."""
        self._floor.add(target.minimum, now)
        self._scaled.add(target.minimum, now)
        if target.keep_alive_s is not None or target.further_keep_alive_s is not None:
            self.learning.windows = Windows(
                target.keep_alive_s, target.further_keep_alive_s, target.pre_warm_at_s, target.pre_warm_for_s
            )

    @property
    def has_floor(self) -> bool:
        """Whether what is busy makes a difference to its minimum."""
        return self.learning.cold_s > minimum.SLOW_COLD_S

    def demand(self, now: float) -> float:
        """Slots that it could use: the most of the last seconds."""
        return self._demand.value(now)

    def settled(self, now: float) -> bool:
        """Whether time alone changes nothing any more."""
        resting = self.busy < SETTLED or not self.has_floor
        return resting and not self._floor.value(now) and not self._scaled.value(now)

    def target(self, spec: VersionSpec, load: FunctionLoad, figures: Figures, now: float) -> FunctionTarget:
        elapsed_s = 1.0 if self._updated is None else min(now - self._updated, LONGEST_STEP_S)
        self._updated = now
        self.busy = minimum.average(self.busy, load.in_flight, elapsed_s)
        least = minimum.largest(self._proposals(spec, load, figures, now), spec.max_instances)
        if spec.keep_alive_s != "auto":
            return FunctionTarget(minimum=least.instances, why=least.why)
        windows = self.learning.windows
        learnt = "" if windows.keep_alive_s is None else f"{self.learning.idle.count} pauses seen"
        return FunctionTarget(
            minimum=least.instances,
            keep_alive_s=windows.keep_alive_s,
            further_keep_alive_s=windows.further_keep_alive_s,
            pre_warm_at_s=windows.pre_warm_at_s,
            pre_warm_for_s=windows.pre_warm_for_s,
            why="; ".join(filter(None, (least.why, learnt))),
        )

    def _proposals(self, spec: VersionSpec, load: FunctionLoad, figures: Figures, now: float) -> Iterator[Proposal]:
        floor = int(self._floor.add(minimum.floor(self.busy, spec.concurrency, self.learning.cold_s), now))
        yield Proposal(floor, f"calls of the last {FLOOR_S:g} s kept {floor} busy")
        if figures.provisioned:
            yield Proposal(figures.provisioned, f"{figures.provisioned} provisioned at this time")
        if spec.scale_on:
            yield self._scaled_on(spec, load, figures, now)

    def _scaled_on(self, spec: VersionSpec, load: FunctionLoad, figures: Figures, now: float) -> Proposal:
        """A figure that is missing proposes nothing; what it proposed before counts as long as any proposal does."""
        best = minimum.NOTHING
        for on in spec.scale_on:
            wanted = _wanted(on, spec, load, figures)
            if wanted is not None and wanted > best.instances:
                best = Proposal(wanted, f"{on.metric} asks for {wanted}")
        held = int(self._scaled.add(best.instances, now))
        return best if held <= best.instances else Proposal(held, f"{held} asked for lately")


def _wanted(on: ScaleOn, spec: VersionSpec, load: FunctionLoad, figures: Figures) -> int | None:
    usage = figures.usage
    if on.metric == "concurrency":
        return scale_on.by_total(load.in_flight, load.ready, on.target)
    if on.metric == "cpu":
        return scale_on.by_instance(scale_on.Measured(usage.cpu_percent, usage.instances), load.ready, on.target)
    if on.metric == "memory":
        percent = 100 * usage.private_mb / spec.memory_mb
        return scale_on.by_instance(scale_on.Measured(percent, usage.instances), load.ready, on.target)
    value = figures.custom(on.metric)
    return None if value is None else scale_on.by_total(value, load.ready, on.target)
