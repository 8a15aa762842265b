"""``mayfly scaler``: what it decides, and why."""

from collections.abc import Mapping
from typing import Any

import click

from mayfly.cli import api
from mayfly.cli.follow import Line, tell
from mayfly.cli.output import flat, output_option


@click.group()
def scaler() -> None:
    """What the scaler decides about instances and nodes."""


@scaler.command()
@click.option("-f", "--follow", is_flag=True, help="Go on with new decisions until Ctrl-C.")
@click.option("--since", metavar="WHEN", help="Only newer ones: 30s, 5m, 2h, 7d ago, or a time.")
@click.option("-n", "--tail", type=click.IntRange(min=0), metavar="N", help="Only the last N.")
@api.platform_option
@output_option
def log(follow: bool, since: str | None, tail: int | None, data: str | None, output: str) -> None:
    """Show decisions, oldest first: what about, what was decided, why, and the figures that it was decided by.

    With -o json a list; with -f and -o json one object a line.
    """
    tell(api.find(data), "scaler/log", output, text, follow=follow, since=since, tail=tail)


def text(decision: Line) -> str:
    """``2026-01-31T12:00:00Z  nodes  add 1  demand is above 85 %  (demand=1.7 up=1)``"""
    count = decision.get("count", 0)
    action = f"{decision['action']} {count}" if count else decision["action"]
    parts = [decision["time"], decision["about"], action, decision.get("why", ""), _figures(decision.get("seen", {}))]
    return "  ".join(part for part in parts if part)


def _figures(seen: Mapping[str, Any]) -> str:
    """Without those that are nothing: a decision is made by many, and few of them tell."""
    told = " ".join(f"{name}={_short(value)}" for name, value in flat(seen).items() if value)
    return f"({told})" if told else ""


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
