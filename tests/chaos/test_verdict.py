"""The judge itself: each way to break the promise is seen, and nothing else is."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.dead_letters import DeadLetter
from tests.chaos.functions import Event
from tests.chaos.verdict import Verdict, judge

EVENTS = [Event("a", "event.x", ("f", "g"), "k"), Event("b", "event.x", ("f", "g"), "k"), Event("c", "event.x", ("f",))]
ACKNOWLEDGED = {"a": 1, "b": 2}  # c was not: whatever became of it, nobody was promised anything
SEEN = {("f", "a"): 1, ("f", "b"): 1, ("g", "a"): 1, ("g", "b"): 1}


def judged(
    seen: dict[tuple[str, str], int] = SEEN,
    *,
    first: tuple[str, ...] = ("a", "b"),
    letters: tuple[DeadLetter, ...] = (),
) -> Verdict:
    return judge(EVENTS, ACKNOWLEDGED, seen, {"g": list(first)}, letters)


def test_all_handled_is_good() -> None:
    """Every acknowledged event by every function that must have it; one that was not acknowledged is no loss."""
    verdict = judged()
    assert verdict.good
    assert (verdict.acknowledged, verdict.due, verdict.handled, verdict.twice) == (2, 4, 4, 0)


def test_one_function_missing_one_event_is_a_loss() -> None:
    """That another function handled it is no excuse."""
    verdict = judged({**SEEN, ("g", "b"): 0})
    assert not verdict.good
    assert verdict.missing == ("g b",)


@pytest.mark.parametrize(("reason", "good"), [("it failed 8 times", True), ("", False)])
def test_a_dead_letter_counts_with_its_reason(reason: str, good: bool) -> None:
    """What is in the DLQ is not lost, but it must say why it is there."""
    verdict = judged({**SEEN, ("g", "b"): 0}, letters=(DeadLetter("g", "b", reason, 8),))
    assert verdict.good is good
    assert (verdict.dead, verdict.missing) == (1, ())


def test_a_dead_letter_of_another_function_is_no_excuse() -> None:
    """Each function has its own."""
    assert judged({**SEEN, ("g", "b"): 0}, letters=(DeadLetter("f", "b", "why", 8),)).missing == ("g b",)


def test_twice_is_counted_and_allowed() -> None:
    """At least once: more often is told, not held against anybody."""
    verdict = judged({**SEEN, ("f", "a"): 3})
    assert verdict.good
    assert (verdict.twice, verdict.runs) == (1, 6)


def test_order_of_a_key_is_that_of_the_stream() -> None:
    """The second event of a key handled before the first is a broken promise."""
    verdict = judged(first=("b", "a"))
    assert not verdict.good
    assert verdict.disordered == ("g a",)


def test_those_who_count_are_outside() -> None:
    """Publisher, killer, witness and judge run no code of Mayfly's: a mistake in it cannot hide itself."""
    code = "import sys, tests.chaos.storm; print(*[name for name in sys.modules if name.startswith('mayfly')])"
    ran = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "\n", "")
