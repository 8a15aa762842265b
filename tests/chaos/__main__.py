"""``make chaos``: ten seeds of 10,000 events on each platform, ten tides, and reports of both; what deaths cost."""

import argparse
import asyncio
import os
import platform as machine
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.chaos import losses, report, tides_report
from tests.chaos.platforms import PLATFORMS
from tests.chaos.storm import Outcome, Plan, storm
from tests.chaos.tides import Plan as TidesPlan
from tests.chaos.tides import shore, tides

SECONDS = {"single": 45.0, "cluster": 90.0}  # a cluster takes some seconds to be whole again
STORMS, TIDES, LOSSES = "storms", "tides", "losses"
REPORT = Path(__file__).with_name("REPORT.md")
TIDES_REPORT = Path(__file__).with_name("TIDES.md")


def main() -> int:
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that its platform ends with it
    parts = {STORMS: _storms, TIDES: _tides, LOSSES: _losses}
    good = [parts[name](options) for name in options.only or parts]  # all of them, whatever comes of the first
    return 0 if all(good) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--only", choices=(STORMS, TIDES, LOSSES), action="append", help="default: each")
    parser.add_argument("--platform", choices=PLATFORMS, action="append", help="of the storms; default: each")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--events", type=int, default=10_000, help="of a seed")
    parser.add_argument("--seconds", type=float, help=f"over which events are published, and kills happen: {SECONDS}")
    parser.add_argument("--kills", type=int, default=4, help="of each service, in each seed")
    parser.add_argument("--cycles", type=int, default=10, help="of the tides")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="where data and logs of the platforms stay")
    parser.add_argument("--no-report", action="store_true", help="leave the reports as they are")
    return parser.parse_args()


def _storms(options: argparse.Namespace) -> bool:
    outcomes: dict[str, list[Outcome]] = {}
    for name in options.platform or PLATFORMS:
        print(name, flush=True)
        for seed in range(options.first_seed, options.first_seed + options.seeds):
            seconds = options.seconds or SECONDS[name]
            plan = Plan(seed=seed, events=options.events, seconds=seconds, kills=options.kills)
            outcomes.setdefault(name, []).append(_storm(name, plan, options.keep))
    if not options.no_report:
        REPORT.write_text(report.render(outcomes, _machine()))
    return all(outcome.verdict.good for found in outcomes.values() for outcome in found)


def _storm(name: str, plan: Plan, keep: Path | None) -> Outcome:
    with _folder(keep) as folder, PLATFORMS[name](folder / f"{name}-{plan.seed}") as platform:
        outcome = asyncio.run(storm(platform, plan))
    print(report.summary(outcome), flush=True)
    for kind in ("missing", "unexplained", "disordered"):
        for handling in getattr(outcome.verdict, kind)[:10]:
            print(f"  {kind}: {handling}", flush=True)
    return outcome


def _tides(options: argparse.Namespace) -> bool:
    plan = TidesPlan(cycles=options.cycles, calls=10_000, events=2_000)
    with _folder(options.keep) as folder, shore(folder / TIDES) as platform:
        outcome = asyncio.run(tides(platform, plan, lambda *told: print(tides_report.summary(*told), flush=True)))
    if not options.no_report:
        TIDES_REPORT.write_text(tides_report.render(outcome, _machine()))
    return outcome.good


def _losses(options: argparse.Namespace) -> bool:
    """Figures for the terminal: three of each death."""
    for _ in range(3):
        with _folder(options.keep) as folder, losses.two_nodes(folder / "worker") as platform:
            worker = asyncio.run(losses.lose_worker(platform))
        print(f"worker killed with {worker.on_it} calls: 502 after {1000 * worker.told_median_s:.0f} ms, p50;", end=" ")
        print(f"answers { ({name: dict(codes) for name, codes in worker.codes.items()}) }", flush=True)
        with _folder(options.keep) as folder, losses.two_of_each(folder / "router") as both:
            gaps = sorted(asyncio.run(losses.lose_router(both)).gaps_s.values())
        print(f"router killed: longest time without an answer {[f'{gap:.2f} s' for gap in gaps]}", flush=True)
    return True


def _machine() -> str:
    return f"{os.cpu_count()} cores, Linux {machine.release()}"


@contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    if keep is not None:
        yield keep
    else:
        with tempfile.TemporaryDirectory(prefix="mayfly-chaos-") as folder:
            yield Path(folder)


if __name__ == "__main__":
    sys.exit(main())
