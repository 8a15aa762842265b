"""One function as the scaler sees it: what reports make of it, and that missing ones make nothing."""

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mayfly_proto.records import FunctionLoad, FunctionTarget, Learned, Package, ScaleOn, VersionSpec
from mayfly_scaler.functions.function import DEMAND_S, FLOOR_S, Figures, Function
from mayfly_scaler.functions.learning import THEN_EVERY, UNKNOWN_COLD_S, Learning
from mayfly_scaler.functions.scale_on import STABLE_S
from mayfly_scaler.functions.targets import differs
from mayfly_scaler.functions.usage import Usage
from mayfly_scaler.functions.windows import KNOWN

SLOW = 250.0  # ms


def spec(**settings: object) -> VersionSpec:
    package = Package(sha256="", size=0, format="py", filename="hello.py")
    base = {"name": "hello", "version": 1, "runtime": "python", "handler": "hello:handler", "created": ""}
    return VersionSpec(**base, package=package, **settings)  # type: ignore[arg-type]


def function() -> Function:
    return Function("hello", Learning())


def play(own: Function, loads: list[FunctionLoad | None], now: float, of: VersionSpec | None = None) -> list[int]:
    """A report a second, None for one that is lost (the last one stands); minimums as they follow from each."""
    minimums, last = [], None
    for second, load in enumerate(loads):
        if load is not None:
            own.heard(load, now + second)
            last = load
        if last is not None:
            minimums.append(own.target(of or spec(), last, Figures(), now + second).minimum)
    return minimums


def busy(slots: int, calls: int = 0) -> FunctionLoad:
    return FunctionLoad(in_flight=slots, ready=slots, cold_ms=SLOW, calls=calls)


def test_what_is_busy_stands_for_a_while() -> None:
    """A floor rises in seconds, and outlasts its load by half a minute."""
    own = function()
    risen = play(own, [busy(20)] * 30, 0.0)
    assert risen[0] < 10
    assert risen[-1] == 25  # 20 and √20
    fallen = play(own, [busy(0)] * int(FLOOR_S + 60), 30.0)
    assert fallen[20] == 25
    assert fallen[-1] == 0
    assert own.settled(200.0)


def test_one_sample_after_a_rest_is_no_load() -> None:
    """A function that sleeps for an hour and is then seen with fifty calls has not had fifty calls for an hour."""
    own = function()
    play(own, [busy(0)] * 3, 0.0)
    assert play(own, [busy(50)], 3600.0)[0] < 30


@pytest.mark.invariant("I33")
@given(st.integers(0, 2**32), st.integers(5, 40))
def test_lost_reports_take_nothing_away(seed: int, slots: int) -> None:
    """Of steady load's reports a fifth never come: no minimum ever falls, as if all had come."""
    rng = random.Random(seed)
    loads = [None if rng.random() < 0.2 else busy(slots) for _ in range(120)]
    minimums = play(function(), [busy(slots), *loads], 0.0)
    assert all(after >= before for before, after in pairwise(minimums))
    assert minimums[-1] == play(function(), [busy(slots)] * 121, 0.0)[-1]


@given(st.floats(1e5, 1e9))
def test_moments_do_not_matter(origin: float) -> None:
    """Only differences of this process's clock count, wherever it began."""
    loads = [busy(number % 7) for number in range(60)]
    assert play(function(), loads, origin) == play(function(), loads, 0.0)


def test_concurrency_is_divided_out() -> None:
    """Twenty busy slots of ten each are two instances and a little more."""
    assert play(function(), [busy(20)] * 40, 0.0, spec(concurrency=10))[-1] == 3


def test_what_a_function_scales_on() -> None:
    """The largest of its figures; each of them may be missing."""
    of = spec(
        scale_on=[
            ScaleOn(metric="concurrency", target=2),
            ScaleOn(metric="cpu", target=50),
            ScaleOn(metric="memory", target=80),
            ScaleOn(metric="jobs.waiting", target=10),
        ],
        memory_mb=100,
    )
    load = FunctionLoad(in_flight=6, ready=4)
    own = function()
    assert own.target(of, load, Figures(), 0.0).minimum == 3
    hot = Usage(instances=4, cpu_percent=4 * 90.0, private_mb=4 * 90.0)
    target = own.target(of, load, Figures(usage=hot), 1.0)
    assert (target.minimum, target.why) == (8, "cpu asks for 8")
    jobs = Figures(custom={"jobs.waiting": 95.0}.get, usage=hot)
    target = own.target(of, load, jobs, 2.0)
    assert (target.minimum, target.why) == (10, "jobs.waiting asks for 10")
    assert own.target(of, load, Figures(provisioned=12), 3.0).why == "12 provisioned at this time"


def test_a_figure_that_is_no_longer_said_holds_for_as_long_as_any() -> None:
    """A publisher that dies takes its instances along five minutes later, and not at once."""
    of = spec(scale_on=[ScaleOn(metric="jobs", target=1)])
    own, load = function(), FunctionLoad()
    assert own.target(of, load, Figures(custom={"jobs": 7.0}.get), 0.0).minimum == 7
    assert own.target(of, load, Figures(), STABLE_S - 1).minimum == 7
    assert own.target(of, load, Figures(), STABLE_S + 1).minimum == 0


def test_a_new_scaler_takes_nothing_back_before_it_knows_better() -> None:
    """What stands in KV is what the function gets until figures of its own are in: floors, and windows."""
    standing = FunctionTarget(minimum=9, keep_alive_s=62.0, further_keep_alive_s=13.0, pre_warm_at_s=294.0)
    own = function()
    own.resume(standing, 0.0)
    assert not differs(standing, own.target(spec(), busy(7), Figures(), 1.0))
    own.heard(FunctionLoad(idle_gaps={"57": 1}), 2.0)
    own.learning.work_out(pre_warm=True)
    assert not differs(standing, own.target(spec(), busy(7), Figures(), 2.0))
    own.heard(FunctionLoad(idle_gaps={"5": KNOWN}, further_gaps={"5": KNOWN}), 3.0)
    own.learning.work_out(pre_warm=True)
    assert differs(standing, own.target(spec(), busy(7), Figures(), 3.0))


def test_a_fixed_keep_alive_has_no_windows() -> None:
    """`keep_alive = 90` means ninety seconds, whatever is learnt."""
    own = function()
    own.heard(FunctionLoad(idle_gaps={"297": 60}), 0.0)
    own.learning.private_mb = 200.0
    own.learning.work_out(pre_warm=True)
    target = own.target(spec(), FunctionLoad(), Figures(), 1.0)
    assert target.pre_warm_at_s is not None
    assert target.why == "60 pauses seen"
    assert not differs(FunctionTarget(), own.target(spec(keep_alive_s=90.0), FunctionLoad(), Figures(), 2.0))


def test_demand_is_the_most_of_the_last_seconds() -> None:
    """A function between two calls keeps its place; calls too short to be seen under way count by their number."""
    own = function()
    own.heard(FunctionLoad(in_flight=3, queued=4), 0.0)
    own.heard(FunctionLoad(), 1.0)
    assert own.demand(DEMAND_S) == 7
    assert own.demand(DEMAND_S + 1.1) == 0
    own.heard(FunctionLoad(calls=5000, service_ms=4.0), 10.0)
    own.heard(FunctionLoad(calls=6000, service_ms=4.0), 11.0)
    assert own.demand(11.0) >= 4.0


def test_calls_after_a_rest_have_all_happened_since_the_report_before() -> None:
    """Reports without news are left out, however long that lasts; of lost ones the next makes up for the time."""
    own = function()
    own.heard(FunctionLoad(calls=5000, service_ms=4.0), 10.0)
    own.heard(FunctionLoad(calls=6000, service_ms=4.0), 500.0)
    assert own.demand(500.0) == pytest.approx(4.0)
    own.heard(FunctionLoad(calls=7000, service_ms=4.0), 520.0, elapsed_s=2.0)
    assert own.demand(520.0) == pytest.approx(2.0)


# learning


def test_windows_are_worked_out_when_something_is_new() -> None:
    """Each pause at first, later every 32nd, and whenever the price is another."""
    learning = Learning()
    assert not learning.due
    learning.heard(FunctionLoad(idle_gaps={"57": 1}, cold_ms=SLOW))
    assert learning.due
    learning.heard(FunctionLoad(idle_gaps={"57": 100}))
    learning.work_out(pre_warm=True)
    assert not learning.due
    learning.heard(FunctionLoad(idle_gaps={"57": THEN_EVERY - 1}))
    assert not learning.due
    learning.heard(FunctionLoad(further_gaps={"57": 1}))
    assert learning.due
    learning.work_out(pre_warm=True)
    learning.private_mb = 300.0
    assert learning.due


def test_what_is_kept_is_all_there_is() -> None:
    """Windows from KV are those that would have gone on."""
    learning = Learning()
    learning.heard(FunctionLoad(idle_gaps={"57": 30, "297": 9}, further_gaps={"3": 50}, cold_ms=SLOW))
    learning.private_mb = 33.3
    kept = learning.kept()
    assert kept == Learned(
        idle=kept.idle, idle_count=39, further=kept.further, further_count=50, cold_s=0.25, private_mb=33.3
    )
    restored = Learning.restored(kept)
    assert restored.work_out(pre_warm=True) == learning.work_out(pre_warm=True)
    assert not restored.unsaved
    assert learning.unsaved


def test_bins_of_another_version_are_left_out() -> None:
    """A router that is newer says what an older scaler does not know; the rest of its report counts."""
    learning = Learning()
    learning.heard(FunctionLoad(idle_gaps={"57": 3, "58.5": 4, "61": 1}))
    assert learning.idle.count == 3


def test_a_price_is_never_nothing() -> None:
    """Unmeasured is not free: it is taken for a plain process of twenty megabytes."""
    assert Learning().price == (UNKNOWN_COLD_S, pytest.approx(20 / 1024))


@pytest.mark.parametrize(
    ("before", "after", "worth"),
    [
        (FunctionTarget(), FunctionTarget(why="other"), False),
        (FunctionTarget(minimum=1), FunctionTarget(minimum=2), True),
        (FunctionTarget(keep_alive_s=60.0), FunctionTarget(keep_alive_s=66.0), False),
        (FunctionTarget(keep_alive_s=60.0), FunctionTarget(keep_alive_s=80.0), True),
        (FunctionTarget(keep_alive_s=5.0), FunctionTarget(keep_alive_s=7.0), True),
        (FunctionTarget(keep_alive_s=5.0), FunctionTarget(), True),
        (FunctionTarget(pre_warm_at_s=294.0), FunctionTarget(pre_warm_at_s=None), True),
    ],
)
def test_only_what_is_noticed_is_written(before: FunctionTarget, after: FunctionTarget, worth: bool) -> None:
    """A write a second for each function would be the scaler's largest cost."""
    assert differs(before, after) is worth
