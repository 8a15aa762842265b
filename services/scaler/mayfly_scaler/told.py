"""What is read of a report when it comes. A thousand nodes and ten thousand functions are told of once a second, and
little of it is new: what a node says of each function is looked at when somebody asks, and what a router says again in
the same words is not read again.
"""

from collections.abc import Iterator, Mapping, Set
from itertools import compress
from operator import ne
from typing import Annotated, NamedTuple

import msgspec
import structlog

from mayfly_proto.records import FunctionLoad
from mayfly_proto.reports import Count, NodeReport, Percent, RouterReport


class Measured(msgspec.Struct, gc=False):
    """What is read of a `VersionLoad`."""

    ready: Count = 0
    starting: Count = 0
    private_mb: Annotated[float, msgspec.Meta(ge=0, le=1e9)] = 0.0
    cpu_percent: Percent = 0.0


REPORT_S = 1.0  # from one report to the next

_NOBODY: Set[str] = frozenset()

Counts = dict[str, dict[int, Measured]]  # function → version → what the node has of it


class News(NamedTuple):
    functions: Mapping[str, FunctionLoad]  # of which something is new, or where something goes on
    gone: Set[str]  # functions of which nothing is said any more
    elapsed_s: float  # since the report before


_log = structlog.get_logger()

decode_node = msgspec.json.Decoder(NodeReport).decode
_decode_counts = msgspec.json.Decoder(Counts).decode
_decode_router = msgspec.json.Decoder(RouterReport).decode
_decode_function = msgspec.json.Decoder(FunctionLoad).decode


def counts(report: NodeReport) -> Counts:
    """Decoded each time that it is asked for; nothing when it cannot be read."""
    try:
        return _decode_counts(report.instances)
    except (msgspec.MsgspecError, ValueError) as error:
        _log.warning("report.unreadable", node=report.node, error=str(error))
        return {}


class Router:
    """What one router says of functions: ``loads``, as it was said ``at`` last."""

    __slots__ = ("_going_on", "_payload", "_said", "at", "loads")

    def __init__(self, now: float) -> None:
        self.at = now - REPORT_S
        self.loads: dict[str, FunctionLoad] = {}
        self._payload = b""
        self._said: dict[str, msgspec.Raw] = {}
        self._going_on: set[str] = set()

    def hear(self, payload: bytes, now: float) -> News:
        elapsed_s, self.at = now - self.at, now
        changed, gone = self._read(payload) if payload != self._payload else (_NOBODY, _NOBODY)
        return News({name: self.loads[name] for name in self._going_on | changed}, gone, elapsed_s)

    def _read(self, payload: bytes) -> tuple[Set[str], Set[str]]:
        """Names of functions: of which something else is said than before, and of which nothing is said any more."""
        before, said = self._said, _decode_router(payload).functions
        if list(before) == list(said):  # as in most seconds: nothing has to be looked up
            names: Iterator[str] = compress(said, map(ne, before.values(), said.values()))
            gone: Set[str] = _NOBODY
        else:
            names = (name for name, raw in said.items() if before.get(name) != raw)
            gone = before.keys() - said.keys()
        changed = {name: _decode_function(said[name]) for name in names}
        self._payload, self._said = payload, said
        self.loads |= changed
        for name in gone:
            del self.loads[name]
        self._going_on -= changed.keys() | gone
        self._going_on |= {name for name, load in changed.items() if goes_on(load)}
        return changed.keys(), gone


def goes_on(load: FunctionLoad) -> bool:
    """Whether this says something new each time that it is said."""
    return bool(load.in_flight or load.queued or load.idle_gaps or load.further_gaps)
