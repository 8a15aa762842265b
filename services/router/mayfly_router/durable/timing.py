"""Calls for later, and ticks of schedules: what their headers say about time."""

import re
from datetime import datetime
from typing import NamedTuple

from mayfly_proto import headers

_AT = headers.AT.encode()
_DELAY = headers.DELAY.encode()
_SCHEDULER = headers.SCHEDULER.encode()
_NEXT = headers.SCHEDULE_NEXT.encode()
_TICK = re.compile(r"\.t(\d+)$")


def asks_for_later(raw: bytes) -> bool:
    return _AT in raw or _DELAY in raw


def wanted_at(raw: bytes, now: float) -> float | None:
    """When a call is to run, in Unix time as ``now`` is; None: at once. Raises ValueError, which names the header."""
    delay, at = headers.find(raw, _DELAY), headers.find(raw, _AT)
    if delay is None and at is None:
        return None
    wanted = now + _seconds(delay) if delay is not None else _time(at or b"")
    if wanted > now + headers.LONGEST_DELAY_S:
        raise ValueError(f"{headers.AT if delay is None else headers.DELAY}: more than a year from now")
    return wanted if wanted > now else None


def _seconds(value: bytes) -> float:
    try:
        seconds = float(value)
        if 0 <= seconds < float("inf"):
            return seconds
    except ValueError:
        pass
    raise ValueError(f"{headers.DELAY}: {value[:40].decode('utf-8', 'replace')!r} must be a number of seconds from 0")


def _time(value: bytes) -> float:
    try:
        parsed = datetime.fromisoformat(value.decode())
        if parsed.tzinfo is not None:
            return parsed.timestamp()
    except ValueError:
        pass
    shown = value[:40].decode("utf-8", "replace")
    raise ValueError(f"{headers.AT}: {shown!r} must be a time with its zone, such as 2026-12-24T18:00:00Z (RFC 3339)")


class Tick(NamedTuple):
    trigger: int  # its number
    identity: str  # that no other tick of the function has
    next_at: float  # Unix time of the next one; infinite when there is none


def tick(raw: bytes) -> Tick | None:
    """Of what a schedule fired; None for anything else."""
    scheduler = headers.find(raw, _SCHEDULER)
    found = _TICK.search(scheduler.decode()) if scheduler else None
    if found is None:
        return None
    following = (headers.find(raw, _NEXT) or b"").decode()
    try:
        at = datetime.fromisoformat(following).timestamp()
    except ValueError:
        at = float("inf")
    return Tick(int(found[1]), f"t{found[1]} {following}", at)
