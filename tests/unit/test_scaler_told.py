"""What is read of reports: all that is new, whatever is not read again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mayfly_proto import records
from mayfly_proto.records import FunctionLoad, NodeLoad, RouterLoad, VersionLoad
from mayfly_proto.reports import NodeReport
from mayfly_scaler.functions.usage import survey
from mayfly_scaler.told import REPORT_S, Measured, Router, counts, decode_node

loads = st.builds(
    FunctionLoad,
    in_flight=st.integers(0, 1),
    queued=st.sampled_from([0, 0, 3]),
    ready=st.integers(0, 2),
    calls=st.integers(0, 2),
    idle_gaps=st.sampled_from([{}, {}, {"5": 1}]),
    further_gaps=st.sampled_from([{}, {}, {"7": 2}]),
)
reports = st.dictionaries(st.sampled_from("abcd"), loads)


def said(functions: dict[str, FunctionLoad]) -> bytes:
    return records.encode(RouterLoad(router="r1", epoch=1, functions=functions))


@given(st.lists(st.tuples(reports, st.integers(1, 3))))
def test_nothing_new_is_missed(sequence: list[tuple[dict[str, FunctionLoad], int]]) -> None:
    """Whoever hears of the news only knows as much as whoever reads each report: what was said, what is said otherwise,
    and each time again what cannot stay as it was: calls under way, and pauses that have ended since."""
    router, before = Router(0.0), {}
    for functions, times in sequence:
        for _ in range(times):
            news = router.hear(said(functions), 0.0)
            busy = {name for name, load in functions.items() if load.in_flight or load.queued}
            ended = {name for name, load in functions.items() if load.idle_gaps or load.further_gaps}
            other = {name for name, load in functions.items() if before.get(name) != load}
            assert router.loads == functions
            assert news.functions == {name: functions[name] for name in busy | ended | other}
            assert news.gone == before.keys() - functions.keys()
            before = functions


def test_rest_is_no_news() -> None:
    """Ten thousand functions that wait for calls are nothing to look at."""
    router, resting = Router(0.0), {"a": FunctionLoad(ready=3, calls=9), "b": FunctionLoad(ready=1)}
    assert router.hear(said(resting), 1.0).functions == resting
    assert not router.hear(said(resting), 2.0).functions
    assert router.hear(said({**resting, "b": FunctionLoad(ready=2)}), 3.0).functions == {"b": FunctionLoad(ready=2)}


def test_time_counts_from_the_report_before() -> None:
    """One that was lost makes it longer, one without news does not."""
    router = Router(10.0)
    assert router.hear(said({}), 10.0).elapsed_s == REPORT_S
    assert router.hear(said({}), 11.0).elapsed_s == 1.0
    assert router.hear(said({"a": FunctionLoad(calls=1)}), 13.0).elapsed_s == 2.0


def test_a_report_that_cannot_be_read_changes_nothing() -> None:
    """Neither what is known, nor what the next one is compared with."""
    router = Router(0.0)
    router.hear(said({"a": FunctionLoad(ready=1)}), 1.0)
    for _ in range(2):
        with pytest.raises(ValueError, match="Expected `int`"):
            router.hear(said({"a": FunctionLoad(ready=2)}).replace(b"2", b'"x"'), 2.0)
    assert router.loads == {"a": FunctionLoad(ready=1)}
    assert router.hear(said({"a": FunctionLoad(ready=2)}), 3.0).functions == {"a": FunctionLoad(ready=2)}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("ready", "null"),
        ("ready", "-1"),
        pytest.param("ready", "1" + 400 * "0", id="ready-huge"),
        ("cpu_percent", "1e300"),
        ("private_mb", "1e308"),
    ],
)
def test_what_one_node_says_wrongly_is_left_out(field: str, value: str) -> None:
    """Its report counts, and nothing of its instances: it is not for one node to stop scaling."""
    instances = f'{{"hello":{{"1":{{"{field}":{value}}}}}}}'
    report = decode_node(
        b'{"node":"n1","epoch":1,"memory_used_mb":5,"cpu_percent":1,"instances":%s}' % instances.encode()
    )
    assert counts(report) == {}
    assert survey([report], {"hello": 1}) == {}


def test_what_is_read_is_what_is_sent() -> None:
    """A field of another name would be read as if it had never been said."""
    assert set(NodeReport.__struct_fields__) <= set(NodeLoad.__struct_fields__)
    assert set(Measured.__struct_fields__) <= set(VersionLoad.__struct_fields__)
    load = NodeLoad(
        node="n1", epoch=2, seq=3, memory_mb=4, memory_used_mb=5, cpu_percent=6.5, instances={}, routers={},
        state="empty", starts=7, evicted=8,
    )  # fmt: skip
    read = decode_node(records.encode(load))
    names = set(NodeReport.__struct_fields__) - {"instances"}
    assert {name: getattr(read, name) for name in names} == {name: getattr(load, name) for name in names}
    assert counts(read) == {}
