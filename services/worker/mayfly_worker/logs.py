"""What instances print goes to ``log.<function>.<instance>``, a JSON line a line.

A function that floods must not take the node down with it: each instance may print `RATE` bytes a second, with a burst,
and all of them together `NODE_RATE`. What is above that is dropped, and counted in a line of its own.
"""

from collections.abc import Callable
from datetime import UTC, datetime

from mayfly_chassis.bus import Bus
from mayfly_chassis.errors import BusError
from mayfly_proto import records, results, subjects
from mayfly_worker.complaints import Complaints
from mayfly_worker.group import Instance

RATE = 256 * 1024  # bytes a second
BURST = 1024 * 1024
NODE_RATE = 4 * 1024 * 1024
NODE_BURST = 8 * 1024 * 1024
MAX_LINE = 64 * 1024
LINE_COST = 256  # bytes that a line costs beside its text

PLATFORM = "platform"


class Allowance:
    """A token bucket."""

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._level = burst
        self._filled = now

    def room(self, now: float) -> float:
        self._level = min(self._burst, self._level + (now - self._filled) * self._rate)
        self._filled = now
        return self._level

    def spend(self, amount: float) -> None:
        self._level -= amount


class NodeLogs:
    """What all instances of the node share: the way out, and how much of it there is."""

    def __init__(self, bus: Bus, clock: Callable[[], float], complaints: Complaints) -> None:
        self.bus = bus
        self.clock = clock
        self.complain = complaints
        self.allowance = Allowance(NODE_RATE, NODE_BURST, clock())


class InstanceLog:
    def __init__(self, node: NodeLogs, instance: Instance) -> None:
        group = instance.group
        self._node = node
        self._function = group.function
        self._version = group.version
        self._instance = instance.id
        self._subject = subjects.log(group.function, instance.id)
        self._allowance = Allowance(RATE, BURST, node.clock())
        self._dropped = 0

    def write(self, stream: str, invocation: str, lines: bytes) -> None:
        """One or more whole lines."""
        time = rfc3339()
        room = self._room()
        for line in lines.removesuffix(b"\n").split(b"\n"):
            cost = min(len(line), MAX_LINE) + LINE_COST
            if cost > room:
                self._dropped += 1
                continue
            if self._dropped:
                self._tell_dropped(time)
            room -= cost
            self._spend(cost)
            self._publish(time, stream, line[:MAX_LINE].decode("utf-8", "replace"), invocation)

    def close(self) -> None:
        if self._dropped:
            self._tell_dropped(rfc3339())

    def _room(self) -> float:
        now = self._node.clock()
        return min(self._allowance.room(now), self._node.allowance.room(now))

    def _spend(self, cost: float) -> None:
        self._allowance.spend(cost)
        self._node.allowance.spend(cost)

    def _tell_dropped(self, time: str) -> None:
        dropped, self._dropped = self._dropped, 0
        self._publish(time, PLATFORM, f"{dropped} lines dropped: more output than a node can carry", "")

    def _publish(self, time: str, stream: str, line: str, invocation: str) -> None:
        entry = records.LogLine(
            time=time,
            function=self._function,
            version=self._version,
            instance=self._instance,
            stream=stream,
            line=line,
            invocation=invocation,
        )
        try:
            self._node.bus.publish(self._subject, records.encode(entry))
        except BusError as error:
            self._node.complain("log.lost", str(error))


def rfc3339() -> str:
    return results.rfc3339(datetime.now(UTC))
