"""Real rates go through, and the judge of memory sees a leak."""

from pathlib import Path

import pytest

from tests.chaos.platforms import single
from tests.chaos.trace import describe, growing, read_rates, replay, timed

MINUTES, SPEED = 4, 24.0  # ten seconds


@pytest.mark.xdist_group("chaos")
@pytest.mark.timeout(240)
async def test_minutes_of_a_trace_go_through(tmp_path: Path) -> None:
    """The short form of `make trace`: 20 functions at their rates, nothing lost."""
    with single(tmp_path) as platform:
        result = await replay(platform, minutes=MINUTES, speed=SPEED)
    print(describe(result))
    assert result.verdict.acknowledged == sum(sum(rate.per_minute[:MINUTES]) for rate in read_rates())
    assert result.verdict.missing == ()
    assert result.growing == []
    assert set(result.memory[-1]) == set(result.memory[0])


def test_trace_is_twenty_functions_and_an_hour() -> None:
    """What is published is what the trace says, each within its minute."""
    rates = read_rates()
    assert [len(rate.per_minute) for rate in rates] == [60] * 20
    pairs = timed(rates, minutes=2, speed=60)
    assert len(pairs) == sum(sum(rate.per_minute[:2]) for rate in rates)
    assert [moment for moment, _ in pairs] == sorted(moment for moment, _ in pairs)
    assert len({event.id for _, event in pairs}) == len(pairs)
    assert sum(moment < 1 for moment, _ in pairs) == sum(rate.per_minute[0] for rate in rates)


def test_a_service_that_grows_is_named() -> None:
    """Warming up is no leak, growth after it is; one that was started in between is compared with nothing."""
    flat = [{"router": mb, "nats": mb} for mb in (30.0, 50.0, 60.0, 60.0, 61.0, 62.0, 60.0, 61.0)]
    assert growing(flat, events=0) == []
    leak = [{**row, "router": 40.0 + 10 * number} for number, row in enumerate(flat)]
    assert growing(leak, events=100_000) == ["router"]


def test_nats_is_allowed_what_it_keeps_and_no_more() -> None:
    """About a kilobyte an event: less is its index and the ids that it remembers, more is a leak."""
    memory = [{"nats": 50.0 + 5 * number} for number in range(20)]
    assert growing(memory, events=100_000) == []
    assert growing(memory, events=10_000) == ["nats"]
