"""`make bench`: every figure from one run on one embedded server. Prints a table, writes results/latest.json."""

import json
import sys
from pathlib import Path
from typing import Any

import uvloop

import cold
import footprint
import warm
from system import System, running

RESULTS = Path(__file__).parent / "results" / "latest.json"


async def measure(system: System) -> dict[str, Any]:
    return {
        "up_to_ready_s": system.ready_s,
        "warm": await warm.measure(system),
        "cold": await cold.measure(system),
        "footprint": await footprint.measure(system),
    }


def show(figures: dict[str, Any], indent: int = 0) -> None:
    for name, value in figures.items():
        if isinstance(value, dict):
            print(f"{'  ' * indent}{name}")
            show(value, indent + 1)
        else:
            print(f"{'  ' * indent}{name:<{44 - 2 * indent}}{value:>12,.3f}")


def main() -> None:
    with running() as system:
        figures = uvloop.run(measure(system))
    show(figures)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(figures, indent=2) + "\n")
    print(f"\nalso in {RESULTS.relative_to(Path.cwd()) if RESULTS.is_relative_to(Path.cwd()) else RESULTS}")


if __name__ == "__main__":
    sys.exit(main())
