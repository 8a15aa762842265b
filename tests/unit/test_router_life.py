"""A function's life with learned windows: the router's decisions, and a node that does as it is told."""

import random
from collections import deque
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mayfly_proto.records import Client, FunctionTarget, RouterMembers
from mayfly_router.call import Call
from mayfly_router.holds import NOTHING, Holds
from mayfly_router.prewarm import PreWarm
from mayfly_router.state import State
from tests.unit.router_parts import call, function_of, node, route, spec

TICK_S = 0.05
COLD_S = 0.2


class Life:
    """Everything of this function is on n1."""

    def __init__(self, target: FunctionTarget, **fields: Any) -> None:
        self.now = 0.0
        self.state = State("r1", 10**6, lambda: self.now)
        self.state.members = RouterMembers(epoch=1, members={"r1": Client(server="s", id=1)})
        self.node = self.state.nodes["n1"] = node()
        self.function = self.state.functions["f"] = function_of(0, spec(**fields))
        self.function.target = target
        self.pool = self.function.pools[1]
        self.holding = NOTHING
        self.holds = Holds(self.state, self.hear)
        self.prewarm = PreWarm()
        self.prewarm.follow(self.function, 0)
        self.idle: dict[str, float] = {}  # instance → since when
        self.starting: deque[tuple[float, str]] = deque()
        self.running: list[tuple[float, str]] = []
        self.started: list[float] = []
        self.lived: list[float] = []  # idle time after which instances were reclaimed
        self.served = 0
        self._said_at = 0.0

    @property
    def instances(self) -> int:
        return len(self.idle) + len(self.starting) + len(self.running)

    def hear(self, _node: str, _pool: object, holding: Any) -> None:
        self.holding = holding

    def call(self, duration_s: float) -> None:
        self.pool.wait(call("x", arrived=self.now, deadline=self.now + 100, payload=b"%f" % duration_s), self.now)
        self.match()

    def until(self, end: float) -> None:
        while self.now < end:
            self.now = round(self.now + TICK_S, 3)
            self.tick()

    def tick(self) -> None:
        while self.starting and self.starting[0][0] <= self.now:
            self.idle[self.starting.popleft()[1]] = self.now
        for end, instance in [run for run in self.running if run[0] <= self.now]:
            self.running.remove((end, instance))
            self.idle[instance] = self.now
            self.pool.served(COLD_S)
            following = self.pool.release(self.pool.shares["n1"], self.now)
            if following is not None:
                self.run(following)
        for function in self.prewarm.look(self.now).unused:
            for stopping in function.unwanted():
                for _ in range(stopping.number):
                    del self.idle[min(self.idle, key=lambda instance: self.idle[instance])]
        self.reclaim()
        self.pool.route(self.node, self.route(), self.now)
        self.match()
        for _, number in self.function.plan(self.now).orders:
            self.start(number)
        if self.now - self._said_at >= 1:
            self._said_at = self.now
            self.state.restated.add("f")
            self.holds.step(self.now)

    def route(self) -> Any:
        ready = [*self.idle, *(instance for _, instance in self.running)]
        return route(*ready) if ready else None

    def match(self) -> None:
        for _, waiting in self.pool.match(self.now):
            self.run(waiting)

    def run(self, waiting: Call) -> None:
        """In the instance used last."""
        instance = max(self.idle, key=lambda instance: self.idle[instance])
        del self.idle[instance]
        self.running.append((self.now + float(waiting.payload), instance))
        self.served += 1

    def start(self, number: int) -> None:
        ids = [f"i{len(self.started) + k}" for k in range(number)]
        self.started += [self.now] * number
        self.pool.starts.order(ids, self.now)
        self.starting.extend((self.now + COLD_S, id_) for id_ in ids)

    def reclaim(self) -> None:
        """As workers do: the longest idle first, the last one by its own window, none that is held."""
        first, further = (90 if ms < 0 else ms / 1000 for ms in self.holding[1:])
        for instance, since in sorted(self.idle.items(), key=lambda item: item[1]):
            left = len(self.idle) + len(self.running)
            window = first if left == 1 else further
            if left > self.holding.number and self.now - since >= window:
                del self.idle[instance]
                self.lived.append(self.now - since)


def poisson(life: Life, rate: float, seconds: float, service_s: float, seed: int) -> list[tuple[float, float]]:
    """Calls at random; returns when each came and ended, had it not had to wait."""
    chance = random.Random(seed)
    calls = []
    at = 0.0
    while (at := at + chance.expovariate(rate)) < seconds:
        life.until(at)
        life.call(service_s)
        calls.append((at, at + service_s))
    life.until(seconds)
    return calls


@pytest.mark.invariant("S14")
@given(st.integers(0, 3), st.integers(0, 1000), st.booleans())
@settings(max_examples=15, deadline=None)
def test_after_its_last_call_a_function_goes_to_its_minimum_and_stays_there(
    minimum: int, seed: int, waits: bool
) -> None:
    """However it was called: when keep-alive and window are over, what is left is the minimum, and nothing is started
    ever after."""
    target = FunctionTarget(
        minimum=minimum,
        keep_alive_s=8,
        further_keep_alive_s=3,
        pre_warm_at_s=40 if waits else None,
        pre_warm_for_s=10,
    )
    life = Life(target)
    poisson(life, 0.5, 60, 0.5, seed)
    life.until(60 + 5 + 8 + 40 + 10 + 3)
    assert life.instances == minimum
    started = len(life.started)
    life.until(life.now + 600)
    assert (life.instances, len(life.started)) == (minimum, started)
    assert life.served
    assert not life.pool.queue


def test_a_window_has_an_instance_ready_for_the_call() -> None:
    """A call every minute, a keep-alive of five seconds: each call after the first finds a ready instance, for sixteen
    seconds of it in a minute."""
    life = Life(FunctionTarget(keep_alive_s=5, pre_warm_at_s=55, pre_warm_for_s=10))
    idle_s = 0.0
    for minute in range(1, 11):
        while life.now < minute * 60:
            life.until(life.now + TICK_S)
            idle_s += TICK_S * bool(life.idle)
        assert bool(life.idle) is (minute > 1)
        life.call(0.1)
        assert bool(life.pool.queue) is (minute == 1)
    assert idle_s < 10 * 16


def test_an_instance_that_nobody_came_for_leaves_with_its_window() -> None:
    """Its keep-alive would last longer: it was started for the window, and goes when that is over."""
    life = Life(FunctionTarget(keep_alive_s=30, further_keep_alive_s=3, pre_warm_at_s=40, pre_warm_for_s=10))
    life.call(0.1)
    life.until(35)
    assert life.instances == 0
    life.until(48)
    assert life.instances == 1
    life.until(52)
    assert life.instances == 0
    life.until(200)
    assert sum(at > 1 for at in life.started) == 1


@pytest.mark.invariant("S15")
@pytest.mark.parametrize("seed", range(4))
def test_under_constant_load_starts_are_as_many_as_pauses_longer_than_the_window(seed: int) -> None:
    """A Poisson stream of short calls: an instance is started only for a call that comes after its level was idle for
    longer than its window, and none is reclaimed sooner."""
    keep_alive_s, further_s, seconds = 20.0, 6.0, 3600.0
    life = Life(FunctionTarget(keep_alive_s=keep_alive_s, further_keep_alive_s=further_s))
    calls = poisson(life, 0.1, seconds, COLD_S, seed)
    long_pauses = sum(later - end > keep_alive_s - 1 for (_, end), (later, _) in pairwise(calls))
    overlaps = sum(later < end + COLD_S + TICK_S for (_, end), (later, _) in pairwise(calls))
    assert 10 < len(life.started) <= 1 + long_pauses + overlaps
    assert min(life.lived) >= further_s
    assert len(life.lived) <= len(life.started)
    assert life.served == len(calls)
