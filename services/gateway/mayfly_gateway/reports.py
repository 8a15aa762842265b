"""What nodes and routers report once a second, kept as it came: a thousand of them cost next to nothing until somebody
asks.

Of a node the last report is kept. A router's counters only grow, and what happened lately is the difference of two
reports: so some of its older ones are kept too, `SPACING_S` apart, as far back as `WINDOW_S`.
"""

from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

import msgspec

from mayfly_proto import records

T = TypeVar("T")

WINDOW_S = 10.0
SPACING_S = 2.0
STALE_S = 5.0  # a router that has said nothing for so long has other owners by now


class Heard(NamedTuple):
    at: float
    raw: bytes


class Reports:
    """``clock`` gives seconds, and only its differences count: reports carry no times."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._nodes: dict[bytes, Heard] = {}
        self._routers: dict[bytes, deque[Heard]] = {}

    def node(self, subject: bytes, _reply: bytes, _headers: bytes | None, raw: bytes) -> None:
        self._nodes[subject] = Heard(self._clock(), raw)

    def router(self, subject: bytes, _reply: bytes, _headers: bytes | None, raw: bytes) -> None:
        fresh = Heard(self._clock(), raw)
        known = self._routers.setdefault(subject, deque())
        if len(known) > 1 and known[-1].at - known[-2].at < SPACING_S:
            known.pop()  # the newest so far, and no milestone
        known.append(fresh)
        while len(known) > 1 and known[1].at <= fresh.at - WINDOW_S:
            known.popleft()

    def nodes(self) -> dict[str, tuple[records.NodeLoad, float]]:
        """By name, each with the seconds since it was heard. Those long silent are forgotten by this."""
        now = self._clock()
        self._nodes = {name: heard for name, heard in self._nodes.items() if now - heard.at < WINDOW_S}
        decoded = ((_decoded(heard.raw, records.NodeLoad), now - heard.at) for heard in self._nodes.values())
        return {load.node: (load, age_s) for load, age_s in decoded if load is not None}

    def routers(self) -> Iterator[tuple[records.RouterLoad, records.RouterLoad, float]]:
        """Of each router that lives an older report, the last, and the seconds between (0: it is the same)."""
        now = self._clock()
        self._routers = {name: known for name, known in self._routers.items() if now - known[-1].at < STALE_S}
        for known in self._routers.values():
            first, last = _decoded(known[0].raw, records.RouterLoad), _decoded(known[-1].raw, records.RouterLoad)
            if first is not None and last is not None:
                yield first, last, known[-1].at - known[0].at


def _decoded(raw: bytes, kind: type[T]) -> T | None:
    """None for what is no report: whoever may publish there may publish anything."""
    try:
        return records.decode(raw, kind)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
