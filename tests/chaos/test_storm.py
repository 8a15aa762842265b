"""Nothing acknowledged is lost while services are killed with -9: a short storm of `make chaos`, on each platform."""

from pathlib import Path

import pytest

from tests.chaos.platforms import PLATFORMS
from tests.chaos.report import summary
from tests.chaos.storm import Plan, storm

SHORT = {
    "single": Plan(seed=1, events=2_000, seconds=15, kills=2),
    "cluster": Plan(seed=2, events=500, seconds=10, kills=1),
}


@pytest.mark.xdist_group("chaos")
@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", PLATFORMS)
async def test_nothing_acknowledged_is_lost(name: str, tmp_path: Path) -> None:
    """Every acknowledged event is handled at least once by each of its functions, or is in the DLQ with its reason."""
    plan = SHORT[name]
    with PLATFORMS[name](tmp_path) as platform:
        outcome = await storm(platform, plan)
    print(summary(outcome))
    assert set(outcome.kills.values()) == {plan.kills}, "not everything was killed as often as it should"
    assert outcome.verdict.acknowledged == plan.events
    assert outcome.poisoned, "nothing was poisoned: the storm was too short"
    assert outcome.verdict.missing == ()
    assert outcome.verdict.unexplained == ()
    assert outcome.verdict.disordered == ()
