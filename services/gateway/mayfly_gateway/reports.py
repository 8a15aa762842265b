"""What nodes and routers report once a second, kept as it came: a thousand of them cost next to nothing until somebody
asks.

Of a node the last report is kept. A router's counters only grow, and what happened lately is the difference of two
reports: so those of the last `WINDOW_S` are kept. A router says nothing of a function at rest: what was last known of
it stays when a report is let go, else a function would seem to do all its calls in the second in which it wakes.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple, TypeVar

import msgspec

from mayfly_proto import records
from mayfly_proto.records import FunctionLoad
from mayfly_proto.reports import RouterReport

T = TypeVar("T")

WINDOW_S = 10.0
STALE_S = 5.0  # a router that has said nothing for so long has other owners by now


class Heard(NamedTuple):
    at: float
    raw: bytes


class Recent(NamedTuple):
    """What one router says of functions. One that is not in ``before`` was not known before its last report."""

    before: Mapping[str, FunctionLoad]
    now: Mapping[str, FunctionLoad]
    seconds: float  # between the two; 0: there is one report only


class RouterReports:
    def __init__(self) -> None:
        self._kept: deque[Heard] = deque()
        self._let_go: dict[str, msgspec.Raw] = {}  # what reports that were let go said last of each function
        self._gone = b""  # the last of these reports

    @property
    def heard_at(self) -> float:
        return self._kept[-1].at

    def add(self, fresh: Heard) -> None:
        self._kept.append(fresh)
        while len(self._kept) > 1 and self._kept[1].at <= fresh.at - WINDOW_S:
            self._let_it_go(self._kept.popleft().raw)

    def recent(self) -> Recent:
        now = _functions(self._kept[-1].raw)
        first: Mapping[str, FunctionLoad] = _functions(self._kept[0].raw) if len(self._kept) > 1 else {}
        before: dict[str, FunctionLoad] = {}
        for heard in list(self._kept)[-2:0:-1]:
            before |= _functions(heard.raw)  # where it woke within the window: as it was first told
        for name in now.keys() & self._let_go.keys() - first.keys():
            if load := records.readable(self._let_go[name], FunctionLoad):
                before[name] = load
        before |= first
        return Recent(before, now, self._kept[-1].at - self._kept[0].at)

    def _let_it_go(self, raw: bytes) -> None:
        """Most say the same as the one before, and of most functions: that is not read, and not kept twice."""
        if raw == self._gone:
            return
        self._gone = raw
        report = records.readable(raw, RouterReport)
        for name, said in report.functions.items() if report is not None else ():
            if self._let_go.get(name) != said:
                self._let_go[name] = said.copy()  # else it would keep all of the report


class Reports:
    """``clock`` gives seconds, and only its differences count: reports carry no times."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._nodes: dict[bytes, Heard] = {}
        self._routers: dict[bytes, RouterReports] = {}

    def node(self, subject: bytes, _reply: bytes, _headers: bytes | None, raw: bytes) -> None:
        self._nodes[subject] = Heard(self._clock(), raw)

    def router(self, subject: bytes, _reply: bytes, _headers: bytes | None, raw: bytes) -> None:
        self._routers.setdefault(subject, RouterReports()).add(Heard(self._clock(), raw))

    def nodes(self) -> dict[str, tuple[records.NodeLoad, float]]:
        """By name, each with the seconds since it was heard. Those long silent are forgotten by this."""
        now = self._clock()
        self._nodes = {name: heard for name, heard in self._nodes.items() if now - heard.at < WINDOW_S}
        decoded = ((records.readable(heard.raw, records.NodeLoad), now - heard.at) for heard in self._nodes.values())
        return {load.node: (load, age_s) for load, age_s in decoded if load is not None}

    def routers(self) -> Iterator[Recent]:
        """Of those that live."""
        now = self._clock()
        self._routers = {name: known for name, known in self._routers.items() if now - known.heard_at < STALE_S}
        return (known.recent() for known in self._routers.values())


def _functions(raw: bytes) -> Mapping[str, FunctionLoad]:
    load = records.readable(raw, records.RouterLoad)
    return load.functions if load is not None else {}
