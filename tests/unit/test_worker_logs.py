"""Bounds on what is logged, and by whom."""

import pytest
import structlog
from structlog.testing import capture_logs

from mayfly_worker.complaints import Complaints
from mayfly_worker.logs import Allowance


def test_allowance_spends_a_burst_and_refills_at_its_rate() -> None:
    """A flood is bounded by the burst at first and by the rate from then on."""
    allowance = Allowance(rate=10.0, burst=100.0, now=0.0)
    assert allowance.room(0.0) == 100.0
    allowance.spend(100.0)
    assert allowance.room(0.0) == 0.0
    assert allowance.room(3.0) == pytest.approx(30.0)
    assert allowance.room(1000.0) == 100.0


def test_a_peer_cannot_flood_the_nodes_own_log() -> None:
    """Each kind of complaint comes once a second, with the number that was left out."""
    now = 100.0
    with capture_logs() as lines:
        complain = Complaints(structlog.get_logger(), lambda: now)
        for _ in range(1000):
            complain("frame.malformed", "x")
        complain("reply.lost", "y")
        now += 1.0
        complain("frame.malformed", "z")
    assert [(line["event"], line["further"]) for line in lines] == [
        ("frame.malformed", 0),
        ("reply.lost", 0),
        ("frame.malformed", 999),
    ]
