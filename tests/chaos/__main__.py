"""``make chaos``: ten seeds of 10,000 events on each platform, and tests/chaos/REPORT.md."""

import argparse
import asyncio
import os
import platform as machine
import signal
import sys
import tempfile
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from tests.chaos.platforms import PLATFORMS
from tests.chaos.report import render, summary
from tests.chaos.storm import Outcome, Plan, storm

SECONDS = {"single": 45.0, "cluster": 90.0}  # a cluster takes some seconds to be whole again
REPORT = Path(__file__).with_name("REPORT.md")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--platform", choices=PLATFORMS, action="append", help="default: each")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--events", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, help=f"over which events are published, and kills happen: {SECONDS}")
    parser.add_argument("--kills", type=int, default=4, help="of each service, in each seed")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="where data and logs of the platforms stay")
    parser.add_argument("--no-report", action="store_true", help="leave REPORT.md as it is")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that its platform ends with it
    outcomes: dict[str, list[Outcome]] = {}
    for name in options.platform or PLATFORMS:
        print(name, flush=True)
        for seed in range(options.first_seed, options.first_seed + options.seeds):
            seconds = options.seconds or SECONDS[name]
            plan = Plan(seed=seed, events=options.events, seconds=seconds, kills=options.kills)
            outcomes.setdefault(name, []).append(_once(name, plan, options.keep))
    if not options.no_report:
        REPORT.write_text(render(outcomes, f"{os.cpu_count()} cores, Linux {machine.release()}"))
    return 0 if all(outcome.verdict.good for found in outcomes.values() for outcome in found) else 1


def _once(name: str, plan: Plan, keep: Path | None) -> Outcome:
    folders: AbstractContextManager[str]
    folders = tempfile.TemporaryDirectory(prefix="mayfly-chaos-") if keep is None else nullcontext(str(keep))
    with folders as folder, PLATFORMS[name](Path(folder) / f"{name}-{plan.seed}") as platform:
        outcome = asyncio.run(storm(platform, plan))
    print(summary(outcome), flush=True)
    for kind in ("missing", "unexplained", "disordered"):
        for handling in getattr(outcome.verdict, kind)[:10]:
            print(f"  {kind}: {handling}", flush=True)
    return outcome


if __name__ == "__main__":
    sys.exit(main())
