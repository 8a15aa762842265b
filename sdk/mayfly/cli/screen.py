"""What `mayfly top` shows, as lines of text."""

from collections.abc import Mapping, Sequence
from typing import Any

from mayfly.cli.output import table

Row = Mapping[str, Any]

_BAR = 10  # characters


def lines(
    nodes: Sequence[Row], functions: Sequence[Row], height: int | None = None, *, bold: bool = False
) -> list[str]:
    """``height`` None: all there is; else so many lines at most, and rows without a place are counted."""
    above = _block([_node(row) for row in nodes], "no nodes: is a worker running?", _share(height, len(nodes)), bold)
    left = None if height is None else max(height - len(above) - 3, 3)
    below = _block([_function(row) for row in functions], "no calls yet", left, bold)
    return [summary(nodes, functions), "", *above, "", *below][:height]


def summary(nodes: Sequence[Row], functions: Sequence[Row]) -> str:
    ready, busy = (sum(row[field] or 0 for row in nodes) for field in ("ready", "busy"))
    rate, queued = sum(row["rate"] or 0 for row in functions), sum(row["queued"] for row in functions)
    return (
        f"{len(nodes)} nodes, {ready} instances, {busy} busy;"
        f" {len(functions)} functions, {rate:.0f} calls/s, {queued} waiting"
    )


def bar(used: float | None, of: float) -> str:
    """``######....  61 % of 2048``"""
    if used is None or not of:
        return f"{' ' * _BAR}    - of {of:g}"
    filled = min(round(used / of * _BAR), _BAR)
    return f"{'#' * filled}{'.' * (_BAR - filled)} {100 * used / of:3.0f} % of {of:g}"


def _share(height: int | None, count: int) -> int | None:
    """Nodes get half of the screen at most: it is functions that one looks at."""
    return None if height is None else min(count + 1, max(height // 2 - 2, 3))


def _block(rows: Sequence[Row], empty: str, room: int | None, bold: bool) -> list[str]:
    if not rows:
        return [empty]
    hidden = 0 if room is None or len(rows) < room else len(rows) + 2 - room
    shown = table(rows[: len(rows) - hidden], list(rows[0]), bold=bold).splitlines()
    return [*shown, f"... {hidden} more"] if hidden else shown


def _node(row: Row) -> Row:
    return {
        "node": row["node"],
        "state": row["state"],
        "memory MB": bar(row["memory_used_mb"], row["memory_mb"]),
        "cpu %": row["cpu_percent"],
        "ready": row["ready"],
        "busy": row["busy"],
        "starting": row["starting"],
    }


def _function(row: Row) -> Row:
    return {
        "function": row["function"],
        "ready": row["ready"],
        "busy": row["busy"],
        "starting": row["starting"],
        "rate/s": row["rate"],
        "p50 ms": row["p50_ms"],
        "p99 ms": row["p99_ms"],
        "cold %": row["cold_percent"],
        "queue": row["queued"],
        "backlog": row["backlog"],
        "errors": row["errors"],
        "429": row["throttled"],
    }
