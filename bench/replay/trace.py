"""The functions of the trace and their calls. The data set counts calls by minute; where in the minute they are is made
up by what triggers them, the same each time: timers come at even distances and at the same seconds of each minute,
messages of a queue come in bursts, all others at random."""

import gzip
import json
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

FILE = Path(__file__).with_name("azure500.json.gz")
BURST = 10  # messages of a queue, about
BURST_S = 0.5  # between two of them, on average
SHORTEST_S = 0.0005


@dataclass(frozen=True)
class Traced:
    name: str
    trigger: str
    memory_mb: float
    percents: Sequence[int]
    duration_ms: Sequence[float]  # at the percents
    per_minute: Sequence[int]

    def calls(self, minutes: int) -> Iterator[tuple[float, float]]:
        """Moment and duration of each, in seconds, in order."""
        rng = Random(self.name)
        phase = rng.random()
        carried: list[float] = []  # a burst that goes on in the next minute
        for minute, count in enumerate(self.per_minute[:minutes]):
            end_s = 60.0 * (minute + 1)
            moments = sorted(carried + [60.0 * minute + moment for moment in self._within(count, phase, rng)])
            carried = [moment for moment in moments if moment >= end_s]
            for moment in moments[: len(moments) - len(carried)]:
                yield moment, self._duration_s(rng.random())

    def _within(self, count: int, phase: float, rng: Random) -> list[float]:
        if self.trigger == "timer":
            return [60.0 * (phase + number) / count for number in range(count)]
        if self.trigger != "queue":
            return [60.0 * rng.random() for _ in range(count)]
        moments: list[float] = []
        while len(moments) < count:
            moment = 60.0 * rng.random()
            for _ in range(min(BURST, count - len(moments))):
                moments.append(moment)
                moment += rng.expovariate(1 / BURST_S)
        return moments

    def _duration_s(self, uniform: float) -> float:
        percent = 100 * uniform
        index = min(bisect_right(self.percents, percent), len(self.percents) - 1)
        low, high = self.percents[index - 1], self.percents[index]
        shortest, longest = self.duration_ms[index - 1], self.duration_ms[index]
        return max(SHORTEST_S, (shortest + (longest - shortest) * (percent - low) / (high - low)) / 1000)


def read(path: Path = FILE) -> list[Traced]:
    """The busiest first."""
    content = json.loads(gzip.decompress(path.read_bytes()))
    functions = [
        Traced(
            row["function"],
            row["trigger"],
            row["memory_mb"],
            content["percents"],
            row["duration_ms"],
            list(_with_zeros(row["per_minute"])),
        )
        for row in content["functions"]
    ]
    return sorted(functions, key=lambda function: -sum(function.per_minute))


def _with_zeros(text: str) -> Iterator[int]:
    for word in text.split():
        count = int(word)
        if count < 0:
            yield from [0] * -count
        else:
            yield count
