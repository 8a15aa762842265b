"""The table of calls: what each router has yet to hear."""

import pytest

from mayfly_proto.names import InvalidName
from mayfly_worker.calls import Call, Calls
from mayfly_worker.group import Instance
from mayfly_worker.pool import Pool


@pytest.fixture
def calls() -> Calls:
    return Calls("n1", 42)


def instance(function: str = "hello", id_: str = "i1") -> Instance:
    return Pool(1000, 8).order(function, 1, 100, [id_], 0.0).starting[0]


def start(calls: Calls, router: str, seq: int, runs_in: Instance, deadline: float = 10.0) -> Call:
    link = calls.link(router)
    link.last_seq = max(link.last_seq, seq)
    runs_in.group.timeout_ms = 60_000
    call = calls.start(link, seq, runs_in.group, f"inv{seq}", b"_INBOX.x", None)
    call.begin(runs_in, round(deadline * 1000), 0.0)
    return call


def test_completions_are_batched_by_router_and_told_once(calls: Calls) -> None:
    """One message a router, with the highest sequence seen; then nothing until something new happens."""
    runs_in = instance()
    first, second = start(calls, "r1", 1, runs_in), start(calls, "r1", 2, runs_in)
    other = start(calls, "r2", 9, runs_in)
    for call in (second, first, other):
        assert calls.finish(call.id, runs_in) is call
    calls.link("r1").refused.append((3, "busy"))
    told = dict(calls.completions())
    assert told.keys() == {b"mayfly.router.r1.done", b"mayfly.router.r2.done"}
    done = told[b"mayfly.router.r1.done"]
    assert (done.node, done.node_epoch, done.last_seq, done.done) == ("n1", 42, 2, [2, 1])
    assert done.refused == [(3, "busy")]
    assert calls.completions() == []


def test_an_instance_cannot_answer_for_the_call_of_another(calls: Calls) -> None:
    """User code may send any id; only its own call is finished, and only once."""
    mine, other = instance(), instance("other", "i2")
    call = start(calls, "r1", 1, mine)
    assert calls.finish(call.id, other) is None
    assert calls.finish(call.id + 1, mine) is None
    assert calls.finish(call.id, mine) is call
    assert calls.finish(call.id, mine) is None


def test_adopted_calls_get_numbers_that_no_router_counts(calls: Calls) -> None:
    """The new owner hears of the call, by a number below 0; the old one does not any more."""
    call = start(calls, "r1", 5, instance())
    link, views = calls.adopt("r2", lambda function: function == "hello", now=4.0)
    assert link.last_seq == 0
    assert [(v.seq, v.function, v.invocation, v.reply, v.budget_ms) for v in views] == [
        (-1, "hello", "inv5", "_INBOX.x", 6000)
    ]
    assert calls.seen()["r2"].calls == [-1]
    assert calls.seen()["r1"].calls == []
    calls.finish(call.id, call.instance)
    assert [(subject, done.done) for subject, done in calls.completions()] == [(b"mayfly.router.r2.done", [-1])]


def test_router_that_asks_again_finds_its_calls_under_its_own_numbers(calls: Calls) -> None:
    """After a reconnect nothing is renamed, and what it does not own stays where it is."""
    start(calls, "r1", 5, instance())
    start(calls, "r1", 6, instance("other", "i2"))
    link, views = calls.adopt("r1", lambda function: function == "hello", now=0.0)
    assert link.last_seq == 6
    assert [view.seq for view in views] == [5]
    assert calls.seen()["r1"].calls == [5, 6]


def test_routers_that_left_are_forgotten_once_their_calls_are_over(calls: Calls) -> None:
    """Routers come and go; the heartbeat does not grow with them."""
    call = start(calls, "r1", 1, instance())
    calls.link("r2")
    calls.forget_routers(frozenset({"r3"}))
    assert calls.seen().keys() == {"r1"}
    calls.finish(call.id, call.instance)
    calls.forget_routers(frozenset({"r3"}))
    assert calls.seen() == {}


def test_overdue_are_those_whose_time_is_over(calls: Calls) -> None:
    """Each call has its own limit."""
    soon, later = start(calls, "r1", 1, instance(), 1.0), start(calls, "r1", 2, instance(), 2.0)
    assert calls.overdue(0.9) == []
    assert [call for _, call in calls.overdue(1.0)] == [soon]
    assert [call for _, call in calls.overdue(2.0)] == [soon, later]
    assert soon.instance is not None
    assert calls.of(soon.instance) == [soon]


def test_a_router_name_that_is_no_name_makes_no_subject(calls: Calls) -> None:
    """What comes in a frame never ends up in a subject unchecked."""
    with pytest.raises(InvalidName):
        calls.link("r1.done\r\nPUB x")
