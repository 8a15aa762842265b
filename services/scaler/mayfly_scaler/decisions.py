"""What the leader decides, said for people to read: a message each, which the stream DECISIONS keeps."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import structlog

from mayfly_chassis.bus import Bus
from mayfly_chassis.errors import BusError
from mayfly_proto import records, results, subjects
from mayfly_proto.records import Decision
from mayfly_scaler.leader import Leader

NODES = "nodes"
LEADER = "leader"

_log = structlog.get_logger()


def about_node(node: str) -> str:
    return f"node {node}"


def about_function(function: str) -> str:
    return f"function {function}"


class Decisions:
    def __init__(self, bus: Bus, leader: Leader, wall: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._bus = bus
        self._leader = leader
        self._wall = wall  # for people only: nothing is decided by it

    def say(self, about: str, action: str, *, why: str, count: int = 0, seen: Mapping[str, Any] | None = None) -> None:
        """``why``: one sentence; ``seen``: the figures it was decided by."""
        decision = Decision(
            time=results.rfc3339(self._wall()),
            scaler=self._leader.scaler,
            epoch=self._leader.epoch,
            about=about,
            action=action,
            count=count,
            seen=dict(seen or {}),
            why=why,
        )
        _log.info("decision", about=about, action=action, count=count, why=why)
        with suppress(BusError):  # the log line has it
            self._bus.publish(subjects.DECISIONS, records.encode(decision))
