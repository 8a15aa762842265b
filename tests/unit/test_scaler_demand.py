"""What the load asks for, in nodes."""

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from mayfly_proto import records
from mayfly_proto.records import Client, NodeLease, NodeLoad, VersionLoad
from mayfly_proto.reports import NodeReport
from mayfly_scaler.nodes.backoff import FIRST_S, LAST_S, Backoff
from mayfly_scaler.nodes.demand import EVICTED_WINDOW_S, Evictions, Kind, Seen, Waiting, measure
from mayfly_scaler.told import decode_node

KIND = Kind(memory_mb=2048, cores=4)
settings = hypothesis_settings(deadline=None)


def load(node: str = "n1", *, epoch: int = 1, used_mb: int = 0, cpu: float = 0.0, **more: int) -> NodeReport:
    instances = {"hello": {"1": VersionLoad(ready=used_mb // 128)}}
    said = NodeLoad(
        node=node,
        epoch=epoch,
        seq=1,
        memory_mb=2048,
        memory_used_mb=used_mb,
        cpu_percent=cpu,
        instances=instances,
        routers={},
        **more,
    )
    return decode_node(records.encode(said))


def seen(node: str, used_mb: int, cpu: float, cores: int = 4) -> Seen:
    lease = NodeLease(node=node, epoch=1, client=Client(server="s", id=1), memory_mb=2048, cores=cores)
    return Seen(lease, load(node, used_mb=used_mb, cpu=cpu))


def test_dominant_dimension_counts() -> None:
    """Not the sum, nor the mean: what runs out first decides. Where nodes share processors, these are none of it."""
    nodes = [seen("n1", 1024, 90.0), seen("n2", 512, 80.0, cores=8)]
    demand = measure(nodes, [], KIND, cpu=True)
    assert (demand.memory, demand.cpu) == (0.75, pytest.approx(2.5))
    assert demand.total == demand.cpu
    assert measure(nodes, [], KIND, cpu=False).total == 0.75


def test_what_waits_for_a_place_is_demand() -> None:
    """Else a full cluster would look just full. What no further node would help is not: labels, and giants."""
    gpu, disk = {"gpu": "yes"}, {"disk": "fast"}
    waiting = [Waiting(8, 128), Waiting(8, 128, disk), Waiting(5, 128, gpu), Waiting(1, 4096)]
    assert measure([seen("n1", 2048, 0)], waiting, KIND._replace(labels=disk), cpu=False).total == 2.0


def thrash(evictions: Evictions, seconds: int, starts: int, evicted: int, used_mb: int = 1280) -> None:
    for second in range(seconds + 1):
        count = {"starts": starts * second, "evicted": evicted * second}
        evictions.observe(float(second), [load(used_mb=used_mb, **count)])


def test_evictions_are_missed_memory() -> None:
    """More than one in a hundred starts throws an idle instance out, for a minute: its memory is asked for; at most a
    node's worth, since it is the same memory again and again; and not again for a minute after nodes were added."""
    evictions = Evictions()
    thrash(evictions, 60, starts=10, evicted=1)
    assert evictions.missed(Kind(100_000, 4)) == pytest.approx(60 * 128 / 100_000)
    assert evictions.missed(KIND) == 1.0
    evictions.forget()
    assert evictions.missed(KIND) == 0.0


@pytest.mark.parametrize(("seconds", "starts", "evicted"), [(60, 100, 1), (50, 10, 1), (60, 10, 0), (60, 0, 0)])
def test_few_or_short_evictions_are_nothing(seconds: int, starts: int, evicted: int) -> None:
    """One in a hundred, or not yet for a minute."""
    evictions = Evictions()
    thrash(evictions, seconds, starts, evicted)
    assert evictions.missed(KIND) == 0.0


def test_restarted_worker_counts_from_nothing() -> None:
    """Its counters fall back to zero: neither a negative nor a huge number of evictions."""
    evictions = Evictions()
    evictions.observe(0.0, [load(used_mb=1280, starts=1000, evicted=500)])
    evictions.observe(30.0, [load(epoch=2, used_mb=1280, starts=5, evicted=1)])
    evictions.observe(EVICTED_WINDOW_S, [load(epoch=2, used_mb=1280, starts=20, evicted=2)])
    assert evictions.missed(Kind(100_000, 4)) == pytest.approx(128 / 100_000)


@pytest.mark.invariant("I22")
@settings
@given(st.lists(st.floats(0, 400, allow_nan=False), min_size=1, max_size=50))
def test_provider_is_left_alone_longer_and_longer(pauses: list[float]) -> None:
    """From five seconds to five minutes, whoever asks how often; ten failures of one moment are one."""
    backoff, now, last = Backoff(), 0.0, 0.0
    for pause in pauses:
        now += pause
        waits = backoff.waits(now)
        wait_s = backoff.fail(now)
        assert (wait_s is None) == waits
        if wait_s is not None:
            assert FIRST_S <= wait_s <= LAST_S
            assert wait_s == min(LAST_S, 2 * last) if last else wait_s == FIRST_S
            last = wait_s
            assert backoff.waits(now + wait_s - 0.01) and not backoff.waits(now + wait_s)
    backoff.succeed()
    assert not backoff.waits(now)
    assert backoff.fail(now) == FIRST_S
