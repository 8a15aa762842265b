"""Load comes and goes, nodes with it, and nobody notices: a short form of the tides of `make chaos`."""

from pathlib import Path

import pytest

from tests.chaos.tides import NEEDED, Plan, shore, tides

SHORT = Plan(cycles=1, calls=3_000, events=500)


@pytest.mark.xdist_group("chaos")
@pytest.mark.timeout(240)
async def test_nodes_come_and_go_and_no_call_fails(tmp_path: Path) -> None:
    """Load that needs three nodes brings them; afterwards they leave one by one, and every call and event is served."""
    with shore(tmp_path) as platform:
        outcome = await tides(platform, SHORT)
    (tide,) = outcome.tides
    assert set(tide.codes) == {200}
    assert tide.codes[200] >= SHORT.calls
    assert tide.most_nodes >= NEEDED, tide.nodes  # a slow machine is given another while instances still start
    assert tide.ebbed_one_by_one, tide.nodes
    assert outcome.verdict.acknowledged == SHORT.events
    assert outcome.verdict.missing == ()
    assert outcome.verdict.dead == 0
