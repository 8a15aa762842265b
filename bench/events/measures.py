"""The three measurements: a burst, one event at a time, and the death of the worker."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol

from events.counter import Counter, Tally
from events.processes import Publisher

_TIMEOUT_S = 60.0
_ACKS_S = 0.1  # in which a side acknowledges the last of a burst


class Kind(Enum):
    OURS = auto()
    FLOOR = auto()  # a broker's client and nothing else
    PEER = auto()
    TUNED_PEER = auto()  # one that is there as it comes, too


class Side(Protocol):
    """Who is measured."""

    @property
    def kind(self) -> Kind: ...

    @property
    def name(self) -> str: ...

    @property
    def publisher(self) -> Publisher: ...

    def cpu_s(self) -> dict[str, float]:
        """CPU seconds so far, by process."""

    def kill_worker(self) -> None:
        """With -9; it is started again at once."""


@dataclass(frozen=True)
class Burst:
    rate: float  # events/s, from the first one's publishing to the last one's start
    cpu_us: dict[str, float]  # an event, by process


def burst(counter: Counter, side: Side, events: int) -> Burst:
    tally = counter.expect(events)
    before = side.cpu_s()
    side.publisher.begin(tally.ids)
    _wait_started(counter, side, tally, events)
    last_ns = max(times[0] for times in tally.started.values())
    rate = events / (last_ns - side.publisher.began_ns()) * 1e9
    counter.wait(lambda: False, _ACKS_S)
    after = side.cpu_s()
    return Burst(rate, {name: (after[name] - before[name]) / events * 1e6 for name in after})


def latencies_us(counter: Counter, side: Side, events: int) -> list[float]:
    """From just before an event is published to its handler's start; the next one is published after that."""
    tally, latencies = counter.expect(events), []
    for handled, number in enumerate(tally.ids, 1):
        side.publisher.begin(range(number, number + 1))
        _wait_started(counter, side, tally, handled)
        latencies.append((tally.started[number][0] - side.publisher.began_ns()) / 1e3)
    return latencies


def _wait_started(counter: Counter, side: Side, tally: Tally, events: int) -> None:
    if not counter.wait(lambda: len(tally.started) >= events, _TIMEOUT_S):
        raise TimeoutError(f"{side.name}: {len(tally.started)} of {events} events handled in {_TIMEOUT_S:.0f} s")


@dataclass(frozen=True)
class Recovery:
    """``None``: not within the time that the bench waits."""

    in_flight: int  # started and not done when the worker was killed
    waiting: int  # not yet started
    seconds_to_half: float | None  # of both, from the kill
    seconds_to_99_percent: float | None
    seconds_to_all: float | None
    not_done: int
    done_twice: int


def recovery(
    counter: Counter, sides: Sequence[Side], *, events: int, done_first: int, sleep_s: float, wait_s: float
) -> dict[str, Recovery]:
    """Of all ``sides`` at once: each has the same events, and is killed when ``done_first`` of them are done."""
    tallies = {side.name: counter.expect(events) for side in sides}
    killed: dict[str, int] = {}
    for side in sides:
        side.publisher.begin(tallies[side.name].ids, sleep_s)

    def kill_those_ready() -> bool:
        for side in sides:
            if side.name not in killed and len(tallies[side.name].done) >= done_first:
                side.kill_worker()
                killed[side.name] = time.monotonic_ns()
        return len(killed) == len(sides)

    if not counter.wait(kill_those_ready, _TIMEOUT_S):
        raise TimeoutError(f"killed only {list(killed)}")
    counter.wait(lambda: all(len(tally.done) == events for tally in tallies.values()), wait_s)
    for side in sides:
        side.publisher.began_ns()
    return {name: _recovered(tallies[name], killed[name]) for name in tallies}


def _recovered(tally: Tally, killed_ns: int) -> Recovery:
    before = {number for number, times in tally.done.items() if times[0] <= killed_ns}
    started = {number for number, times in tally.started.items() if times[0] <= killed_ns}
    held = len(tally.ids) - len(before)
    seconds = sorted((times[0] - killed_ns) / 1e9 for number, times in tally.done.items() if number not in before)

    def until(share: float) -> float | None:
        needed = -(-held * round(share * 100) // 100)
        return seconds[needed - 1] if needed <= len(seconds) else None

    return Recovery(
        in_flight=len(started - before),
        waiting=len(tally.ids) - len(started | before),
        seconds_to_half=until(0.5),
        seconds_to_99_percent=until(0.99),
        seconds_to_all=until(1.0),
        not_done=held - len(seconds),
        done_twice=sum(len(times) > 1 for times in tally.done.values()),
    )
