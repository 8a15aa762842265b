"""What is felt when a worker or a router is killed with -9; the figures themselves are `make chaos`'s."""

from pathlib import Path

import pytest

from tests.chaos.losses import FUNCTIONS, IN_FLIGHT, SURE, UNSURE, lose_router, lose_worker, two_nodes, two_of_each

pytestmark = [pytest.mark.xdist_group("chaos"), pytest.mark.timeout(180)]


async def test_calls_of_a_killed_worker_run_elsewhere_or_fail_at_once(tmp_path: Path) -> None:
    """Those of an idempotent function have their result from the other node, all others 502, and at once."""
    with two_nodes(tmp_path) as platform:
        loss = await lose_worker(platform)
    assert loss.on_it >= IN_FLIGHT // 2
    assert loss.codes[SURE] == {200: IN_FLIGHT}
    assert set(loss.codes[UNSURE]) == {200, 502}
    assert loss.told_median_s < 1.0


async def test_functions_of_a_killed_router_answer_again_at_once(tmp_path: Path) -> None:
    """The other router takes them over; nobody waits for the lease of the dead one to end."""
    with two_of_each(tmp_path) as both:
        loss = await lose_router(both)
    assert set(loss.gaps_s) == set(FUNCTIONS)
    assert max(loss.gaps_s.values()) < 5.0
