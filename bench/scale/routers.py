"""Simulated routers: ``python -m scale.routers ROUTERS FUNCTIONS BUSY`` with a router's settings in the environment.

One process and one connection play them all. They share the functions out among them as real ones do, and say once a
second what real ones say; no call goes through them. Every function has instances. In a second the first BUSY of them
have had calls, some are in the middle of one, and three pauses have ended for each two functions.
"""

import argparse
import asyncio
import random

from mayfly_chassis import supervisor
from mayfly_chassis.bus import Bus
from mayfly_proto import gaps, ownership, records, subjects
from scale import catalogue
from scale.simulated import run

READY = 4
SLOW = 5  # of so many functions one takes long to start
COLD_MS, SLOW_COLD_MS = 12.0, 240.0
IN_FLIGHT = 0.3  # of the busy functions, at any moment
LONGEST_S = 120.0


class Function:
    def __init__(self, number: int, *, busy: bool, rng: random.Random) -> None:
        self._rng = rng
        self._busy = busy
        self._further = number % 2 == 0
        self._cold_ms = COLD_MS if number % SLOW else SLOW_COLD_MS
        self._calls = number + 1

    def load(self) -> records.FunctionLoad:
        if not self._busy:
            return records.FunctionLoad(
                ready=READY,
                calls=self._calls,
                cold=READY,
                p50_ms=3.1,
                p99_ms=9.7,
                service_ms=3.0,
                cold_ms=self._cold_ms,
            )
        rng = self._rng
        self._calls += rng.randint(1, 9)
        return records.FunctionLoad(
            ready=READY,
            calls=self._calls,
            cold=READY,
            in_flight=rng.randint(1, READY) if rng.random() < IN_FLIGHT else 0,
            p50_ms=round(rng.uniform(2, 4), 3),
            p99_ms=round(rng.uniform(5, 20), 3),
            service_ms=round(rng.uniform(2, 4), 3),
            cold_ms=self._cold_ms,
            idle_gaps=self._pause(),
            further_gaps=self._pause() if self._further else {},
        )

    def _pause(self) -> dict[str, int]:
        return {gaps.key(gaps.bin_of(LONGEST_S ** self._rng.random())): 1}


async def live(bus: Bus, routers: dict[str, dict[str, Function]]) -> None:
    """Report, spread over the second. Runs until cancelled."""
    clock = asyncio.get_running_loop().time
    began, turn = clock(), 0
    while True:
        for router, functions in routers.items():
            load = records.RouterLoad(
                router=router, epoch=1, functions={name: function.load() for name, function in functions.items()}
            )
            bus.publish(subjects.load_router(router), records.encode(load))
            turn += 1
            await asyncio.sleep(max(0.0, began + turn / len(routers) - clock()))


async def play(bus: Bus, routers: int, functions: int, busy: int) -> None:
    names = [f"r{number}" for number in range(1, routers + 1)]
    rng = random.Random(1)
    own: dict[str, dict[str, Function]] = {name: {} for name in names}
    for number, name in enumerate(catalogue.names(functions)):
        own[ownership.owner(name, names)][name] = Function(number, busy=number < busy, rng=rng)
    supervisor.notify(supervisor.READY)
    await live(bus, own)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("routers", "functions", "busy"):
        parser.add_argument(name, type=int)
    options = parser.parse_args()
    run("router", lambda bus: play(bus, options.routers, options.functions, options.busy))
