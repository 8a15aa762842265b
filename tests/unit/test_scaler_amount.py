"""How many nodes there are to be: the properties that the decisions keep, whatever the load does."""

from dataclasses import dataclass, field, replace
from math import ceil

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from mayfly_scaler.nodes.amount import HOLE_S, STALE_LIMIT, SURGE, Amount, Change, Nodes, Rules

TICK_S = 5.0

settings = hypothesis_settings(deadline=None)


def amounts(high: float, low: float = 0.0) -> st.SearchStrategy[float]:
    return st.floats(low, high, allow_nan=False)


@dataclass
class Cluster:
    """Nodes that boot in ``boot_s``, drain at once, and do what is decided; everything that was decided is kept."""

    rules: Rules
    boot_s: float = 30.0
    up: int = 1
    drain_s: float = 0.0
    now: float = 0.0
    booting: list[float] = field(default_factory=list)
    draining: list[float] = field(default_factory=list)
    decided: list[tuple[float, Change]] = field(default_factory=list)
    could_come_back: int = 0  # when it was decided last
    amount: Amount = field(init=False)

    def __post_init__(self) -> None:
        self.amount = Amount(self.rules)

    def tick(self, demand: float, *, blocked: bool = False, silent: float = 0.0, fails: bool = False) -> Change | None:
        self.now += TICK_S
        self.up += sum(ready <= self.now for ready in self.booting)
        self.booting = [ready for ready in self.booting if ready > self.now]
        self.draining = [empty for empty in self.draining if empty > self.now]
        self.amount.observe(self.now, demand)
        nodes = Nodes(
            up=self.up,
            booting=len(self.booting),
            draining=len(self.draining),
            blocked=blocked,
            silent=silent,
            provider_fails=fails,
        )
        change = self.amount.decide(self.now, nodes)
        if change is not None:
            self._carry_out(change)
        return change

    def _carry_out(self, change: Change) -> None:
        self.decided.append((self.now, change))
        self.could_come_back = len(self.draining)
        self.draining = self.draining[change.undrain :]
        self.up += change.undrain - change.drain
        self.booting += [self.now + self.boot_s] * change.add
        self.draining += [self.now + self.drain_s] * change.drain if self.drain_s else []

    def run(self, seconds: float, demand: float) -> list[Change]:
        """What was decided in that time."""
        before = len(self.decided)
        for _ in range(int(seconds / TICK_S)):
            self.tick(demand)
        return [change for _, change in self.decided[before:]]


rules = st.builds(
    lambda low, more, in_at: Rules(minimum=low, maximum=low + more, in_at=in_at),
    st.integers(1, 5),
    st.integers(0, 300),
    st.sampled_from([0.8, 0.8, 0.5]),
)


@pytest.mark.invariant("P16")
@settings
@given(rules, amounts(400), st.integers(0, 300), amounts(100))
def test_constant_demand_comes_to_rest(rules: Rules, demand: float, up: int, boot_s: float) -> None:
    """Whatever there was before: with demand that stays the same, nodes come, then some go, then nothing happens for
    ever; there are enough, and not one too many."""
    cluster = Cluster(rules, boot_s, min(up, rules.maximum))
    cluster.run(5_000, demand)
    late = [change for at, change in cluster.decided if at > 2000]
    assert not any(change.add or change.undrain for change in late)
    assert cluster.run(1_000, demand) == []
    if demand <= rules.target * rules.maximum:
        assert demand <= rules.out_at * cluster.up + 1e-6
    if cluster.up > rules.minimum:
        one_less = cluster.up - 1
        assert one_less < ceil(demand / min(rules.target, rules.in_at) - 1e-9)


@pytest.mark.invariant("P17")
@settings
@given(amounts(8, 0.5), amounts(300, 8), amounts(60))
def test_step_is_answered_in_one_decision(before: float, after: float, boot_s: float) -> None:
    """Demand that jumps is met after one tick, one boot and one more tick, as far as `SURGE` (or double) goes."""
    rules = Rules()
    cluster = Cluster(rules, boot_s, up=ceil(before / rules.target))
    cluster.run(600, before)
    reachable = rules.target * (cluster.up + max(SURGE, cluster.up))
    after = min(after, reachable)
    changes = cluster.run(boot_s + 3 * TICK_S, after)
    assert after <= rules.out_at * cluster.up + 1e-6
    assert sum(1 for change in changes if change.add) <= 1


@pytest.mark.invariant("P17")
def test_large_step_doubles_with_each_boot() -> None:
    """A hundred times as much: not a hundred nodes at once, and yet within a few boots."""
    cluster = Cluster(Rules(), boot_s=30, up=1)
    cluster.run(300, 0.5)
    boots = 0
    while cluster.up < 100:
        up = cluster.up
        cluster.run(30, 75.0)
        boots += 1
        assert cluster.up <= max(up + SURGE, 2 * up)
    assert boots <= 6


demands = st.lists(st.tuples(amounts(40), st.integers(1, 80)), min_size=1, max_size=12)


@settings
@given(rules, demands, amounts(60), amounts(200))
@pytest.mark.invariant("P18", "P19", "S20", "S21")
def test_random_load(rules: Rules, load: list[tuple[float, int]], boot_s: float, drain_s: float) -> None:
    """Under any load: never fewer nodes than the minimum nor more than the maximum; never so few left that the window's
    peak fills more than 80 % of them; those that drain come back before any are added; none is drained within two
    minutes after any were added; and after a drain nodes come only when demand exceeds that peak."""
    cluster = Cluster(rules, boot_s, rules.minimum, drain_s)
    drained_at_peak = 0.0
    last_out = float("-inf")
    for demand, ticks in load:
        for _ in range(ticks):
            change = cluster.tick(demand)
            have = cluster.up + len(cluster.booting)
            assert rules.minimum <= have
            assert have + len(cluster.draining) <= rules.maximum
            if change is None:
                continue
            assert not (change.drain and (change.add or change.undrain))
            if change.drain:
                assert cluster.amount.peak <= rules.in_at * cluster.up + 1e-6
                assert cluster.now - last_out >= rules.after_out_s
                drained_at_peak = cluster.amount.peak
            else:
                assert change.undrain <= cluster.could_come_back
                assert not change.add or change.undrain == cluster.could_come_back
                assert demand > drained_at_peak
                drained_at_peak = 0.0
                last_out = cluster.now


@settings
@given(amounts(20, 0.1), st.integers(1, 30), amounts(1))
@pytest.mark.invariant("I33")
def test_too_many_silent_nodes_freeze_scale_in(demand: float, more: int, silent: float) -> None:
    """With reports of more than a fifth of the nodes missing none goes, however little is asked for; some may come."""
    cluster = Cluster(Rules(), up=ceil(demand) + more)
    frozen = silent > STALE_LIMIT
    for _ in range(200):
        change = cluster.tick(0.01, silent=silent)
        assert not (frozen and change)
    assert frozen or cluster.decided
    assert cluster.tick(cluster.up * 2.0, silent=1.0).add > 0  # type: ignore[union-attr]


@pytest.mark.invariant("I22")
@settings
@given(demands)
def test_provider_that_fails_is_asked_for_nothing(load: list[tuple[float, int]]) -> None:
    """While it is waited for: no new nodes, and none that serve are drained; those that drain may still come back."""
    cluster = Cluster(Rules(), up=10)
    for demand, ticks in load:
        for _ in range(ticks):
            change = cluster.tick(demand, fails=True)
            assert change is None or (change.undrain and not change.add and not change.drain)


@pytest.mark.invariant("I34")
def test_window_with_a_hole_says_nothing() -> None:
    """A scaler that was suspended for ten minutes has not seen what those were like: it waits for a new window."""
    cluster = Cluster(Rules(), up=5)
    cluster.run(290, 0.1)
    cluster.now += 600
    assert cluster.run(290, 0.1) == []
    assert cluster.run(2 * HOLE_S, 0.1)


@pytest.mark.invariant("I34")
@settings
@given(amounts(1e9, -1e9), demands)
def test_only_differences_of_time_count(start: float, load: list[tuple[float, int]]) -> None:
    """The clock may begin anywhere: decisions are the same."""
    start = float(int(start))
    one, other = Cluster(Rules(), up=3), Cluster(Rules(), up=3, now=start)
    for demand, ticks in load:
        one.run(ticks * TICK_S, demand)
        other.run(ticks * TICK_S, demand)
    assert [(at + start, change) for at, change in one.decided] == other.decided


def test_blocked_instances_bring_a_node_at_once() -> None:
    """Memory in pieces: demand is low, and yet an instance fits nowhere. One node, and no second while it boots."""
    cluster = Cluster(Rules(), boot_s=20, up=2)
    change = cluster.tick(0.5, blocked=True)
    assert change is not None and change.add == 1
    assert [cluster.tick(0.5, blocked=True) for _ in range(3)] == [None, None, None]


def test_new_leader_takes_nothing_away_at_once() -> None:
    """It has seen a whole window as standby, and does not know what the leader before did a moment ago."""
    cluster = Cluster(Rules(), up=5)
    for _ in range(100):
        cluster.now += TICK_S
        cluster.amount.observe(cluster.now, 0.1)
    cluster.amount.lead(cluster.now)
    assert cluster.run(110, 0.1) == []
    assert cluster.run(20, 0.1)[0].drain == 1


def test_nodes_of_others_count_as_capacity_and_are_left_alone() -> None:
    """A large machine that joined by hand: the provider's nodes go down to the minimum, and need not come back."""
    rules = Rules(minimum=1)
    amount, up = Amount(rules), 4
    for tick in range(1000):
        amount.observe(tick * TICK_S, 3.0)
        if change := amount.decide(tick * TICK_S, Nodes(up=up, fixed=8.0)):
            assert change.drain
            up -= change.drain
    assert up == 1


def test_lowered_limit_is_kept_at_once() -> None:
    """The operator's word, whatever the load."""
    amount = Amount(Rules(maximum=3))
    amount.observe(0.0, 4.0)
    change = amount.decide(0.0, Nodes(up=5))
    assert change == replace(change, drain=2, add=0)  # type: ignore[type-var]


def test_what_the_provider_holds_counts_for_its_limit() -> None:
    """A node that an operator drained is not replaced beyond the maximum."""
    amount = Amount(Rules(maximum=4))
    amount.observe(0.0, 9.0)
    assert amount.decide(0.0, Nodes(up=3, held=1)) is None
    change = amount.decide(0.0, Nodes(up=2, held=1))
    assert change is not None and change.add == 1
