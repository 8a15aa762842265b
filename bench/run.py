"""`make bench`: every figure from one run on one embedded server. Prints a table, writes results/latest.json.

``make bench PARTS="cold events"`` measures only these, and writes nothing.
"""

import json
import sys
from pathlib import Path
from typing import Any

import uvloop

import cold
import footprint
import warm
from events import run as events
from replay import run as replay
from scale import burst, metrics, reports, router
from system import System, running

RESULTS = Path(__file__).parent / "results" / "latest.json"
PARTS = {
    "warm": warm.measure,
    "cold": cold.measure,
    "footprint": footprint.measure,
    "events": events.measure,
    "scale-trace": replay.measure,
}
ALONE = {  # minutes, on stages of their own; if named
    "scale-router": router.measure,
    "scale-reports": reports.measure,
    "scale-metrics": metrics.measure,
    "scale-burst": burst.measure,
}


async def measure(system: System, parts: list[str]) -> dict[str, Any]:
    return {"up_to_ready_s": system.ready_s} | {part: await PARTS[part](system) for part in parts}


async def measure_alone(parts: list[str]) -> dict[str, Any]:
    return {part: await ALONE[part]() for part in parts}


def show(figures: dict[str, Any], indent: int = 0) -> None:
    for name, value in figures.items():
        if isinstance(value, dict):
            print(f"{'  ' * indent}{name}")
            show(value, indent + 1)
        else:
            shown = f"{value:,.3f}" if isinstance(value, float) else "-" if value is None else str(value)
            print(f"{'  ' * indent}{name:<{44 - 2 * indent}}{shown:>12}")


def main(parts: list[str]) -> None:
    figures: dict[str, Any] = {}
    together = [part for part in parts if part not in ALONE]
    if together or not parts:
        with running() as system:
            figures |= uvloop.run(measure(system, together or list(PARTS)))
    figures |= uvloop.run(measure_alone([part for part in parts if part in ALONE]))
    show(figures)
    if parts:
        return
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(figures, indent=2) + "\n")
    print(f"\nalso in {RESULTS.relative_to(Path.cwd()) if RESULTS.is_relative_to(Path.cwd()) else RESULTS}")


if __name__ == "__main__":
    main(sys.argv[1:])
