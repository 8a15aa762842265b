"""A node that is to be empty: what goes when, what stays for how long, and who may say so."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mayfly_proto.messages import Refusal
from mayfly_proto.states import IllegalMove
from mayfly_proto.states import Node as State
from mayfly_worker import cordon
from mayfly_worker.cordon import Cordon, Event, Leaving
from tests.unit.worker_rig import HELD_LIMIT_S, RUNNING_LIMIT_S, Rig


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.close()


def up(rig: Rig, function: str, *ids: str) -> None:
    assert rig.order(function, *ids).accepted == list(ids)
    rig.ready()


def live(rig: Rig) -> set[str]:
    return {instance.id for instance in rig.instances if instance.live}


def test_an_idle_node_is_empty_at_once_and_stays(rig: Rig) -> None:
    """What is idle and not held leaves at the word; with the last of it the node is empty, and takes nothing."""
    up(rig, "a", "a1", "a2")
    assert rig.drain().state == "draining"
    assert rig.announced == [True]
    assert live(rig) == set()
    rig.end_told()
    assert rig.state == "empty"
    assert rig.order("a", "a3").reason == Refusal.DRAINING
    assert rig.drain().state == "empty", "said twice is as good as once"


def test_a_node_with_nothing_is_empty_with_the_answer(rig: Rig) -> None:
    """No detour where there is nothing to wait for."""
    assert rig.drain().state == "empty"
    assert rig.state == "empty"


def test_starts_under_way_are_told_of_at_once(rig: Rig) -> None:
    """Their router hears with the very next word, sent at once, that they do not come, and orders elsewhere."""
    rig.order("a", "a1")
    rig.drain()
    assert rig.wire.loads[-1].instances["a"]["1"].starting == 0
    rig.ready()
    rig.end_told()
    assert rig.state == "empty"


@pytest.mark.invariant("S24")
def test_what_is_held_serves_until_its_owner_stops_it(rig: Rig) -> None:
    """The floor is not taken away before it is elsewhere: it takes calls as before, its surplus leaves."""
    up(rig, "a", "a1", "a2")
    rig.hold("a", 1)
    up(rig, "b", "b1")
    rig.drain()
    assert len(live(rig)) == 1
    rig.end_told()
    _, reply = rig.call("a")
    rig.answer_all()
    assert rig.wire.answered[reply] == 1
    rig.pass_time(HELD_LIMIT_S / 2)
    assert len(live(rig)) == 1
    rig.stop("a")
    rig.end_told()
    assert rig.state == "empty"


def test_calls_of_a_held_version_run_on_all_its_instances(rig: Rig) -> None:
    """What is in use goes on serving, more of it than is held too; what falls idle above it leaves."""
    up(rig, "a", "a1", "a2", "a3")
    rig.hold("a", 1)
    for _ in range(3):
        rig.call("a")
    rig.drain()
    assert len(live(rig)) == 3
    rig.answer_all()
    rig.pass_time(0.25)
    assert len(live(rig)) == 1


def test_an_owner_that_says_nothing_is_not_waited_for_longer_than_the_limit(rig: Rig) -> None:
    """Then the worker drains what is left by itself."""
    up(rig, "a", "a1")
    rig.hold("a", 1)
    rig.drain()
    rig.pass_time(HELD_LIMIT_S - 0.5)
    assert live(rig) == {"a1"}
    rig.pass_time(0.75)
    assert live(rig) == set()


def test_a_hold_taken_back_releases_the_node(rig: Rig) -> None:
    """Routers that stop take theirs back; nothing waits for the limit then."""
    up(rig, "a", "a1")
    rig.hold("a", 1)
    rig.drain()
    rig.hold("a", 0)
    rig.pass_time(0.25)
    assert live(rig) == set()


@pytest.mark.invariant("S23")
def test_running_calls_finish_and_what_came_late_is_refused(rig: Rig) -> None:
    """Nothing that has begun is cut off; nothing new begins; each ends once."""
    up(rig, "a", "a1", "a2")
    _, reply = rig.call("a")
    rig.drain()
    late, _ = rig.call("a")
    assert rig.wire.refused[late] == 1
    rig.pass_time(RUNNING_LIMIT_S - 1)
    assert rig.state == "draining"
    rig.answer_all()
    rig.end_told()
    assert rig.wire.answered[reply] == 1
    assert rig.state == "empty"


@pytest.mark.invariant("S23")
def test_beyond_the_limit_running_calls_are_answered_for(rig: Rig) -> None:
    """Counted from when all had to go, not from the word: a cordon takes nothing of the calls' time."""
    up(rig, "a", "a1")
    rig.hold("a", 1)
    _, reply = rig.call("a")
    rig.drain()
    rig.pass_time(HELD_LIMIT_S + RUNNING_LIMIT_S - 1)
    assert rig.wire.answered[reply] == 0
    rig.pass_time(1.5)
    assert rig.wire.answered[reply] == 1
    assert rig.processes[0].killed
    rig.end_told()
    assert rig.wire.answered[reply] == 1
    assert rig.state == "empty"


@pytest.mark.parametrize("emptied", [False, True])
def test_the_word_can_be_taken_back(rig: Rig, emptied: bool) -> None:
    """Draining or empty: the node takes instances again, says so at once, and what was told to leave does."""
    up(rig, "a", "a1")
    rig.call("a")
    rig.drain()
    if emptied:
        rig.answer_all()
        rig.end_told()
        assert rig.state == "empty"
    assert rig.drain(on=False).state == "up"
    assert (rig.state, rig.announced[-1]) == ("up", False)
    up(rig, "a", "a2")
    rig.pass_time(1.0)
    assert live(rig) == {"a2"}
    refused, _ = rig.call("nobody")
    assert rig.wire.refused[refused] == 1
    assert rig.node.invoker.no_slot == Refusal.BUSY


@pytest.mark.parametrize("waited_s", [HELD_LIMIT_S - 1, HELD_LIMIT_S + 1])
def test_a_second_drain_waits_for_owners_anew(rig: Rig, waited_s: float) -> None:
    """The time that passed in an earlier one, or between them, does not count; nor that it had given up waiting."""
    up(rig, "a", "a1")
    rig.hold("a", 1)
    rig.call("a")
    rig.drain()
    rig.pass_time(waited_s)
    rig.drain(on=False)
    up(rig, "b", "b1")
    rig.hold("b", 1)
    rig.pass_time(5.0)
    rig.drain()
    rig.pass_time(HELD_LIMIT_S - 1)
    assert "b1" in live(rig)


def test_calls_that_lie_ready_are_given_back_at_once(rig: Rig) -> None:
    """What has not begun is its router's again, and need not wait for what runs before it."""
    up(rig, "a", "a1")
    rig.call("a", durable=True)
    behind, _ = rig.call("a", durable=True)
    assert rig.wire.refused[behind] == 0
    rig.drain()
    assert rig.wire.refused[behind] == 1


def test_an_older_leader_is_not_obeyed(rig: Rig) -> None:
    """Of two scalers that both take themselves for the leader the newer counts, also when the older speaks last."""
    rig.drain(epoch=3)
    answer = rig.drain(on=False, epoch=2)
    assert (answer.state, answer.reason) == ("empty", Refusal.STALE)
    assert rig.drain(on=False, epoch=3).reason == ""


def test_nobody_calls_a_node_back_that_is_stopping(rig: Rig) -> None:
    """Its process ends: whoever wants it has to wait for the next one of that name."""
    up(rig, "a", "a1")
    rig.call("a")
    rig.run(lambda: rig.node.cordon.stop(rig.now))
    rig.pass_time(0.25)
    answer = rig.drain(on=False)
    assert (answer.state, answer.reason) == ("draining", Refusal.DRAINING)


def test_without_a_connection_a_stopping_node_does_not_wait_for_owners(rig: Rig) -> None:
    """Nobody could tell it anything. One that is only drained does wait: the connection comes back."""
    up(rig, "a", "a1")
    rig.hold("a", 1)
    rig.wire.connected = False
    rig.drain()
    assert live(rig) == {"a1"}
    rig.run(lambda: rig.node.cordon.stop(rig.now))
    rig.pass_time(0.25)
    assert live(rig) == set()


def test_the_table_has_no_way_from_up_to_empty_but_through_draining() -> None:
    """Only what is drained is empty; an illegal move names state and event."""
    with pytest.raises(IllegalMove, match="node is up: emptied"):
        cordon.move(State.UP, Event.EMPTIED)


def test_the_diagrams_show_what_is_in_the_table() -> None:
    """Of the module and of the worker's page: every state and every event that leads from one to another."""
    page = (Path(__file__).parents[2] / "services" / "worker" / "README.md").read_text()
    for text in (cordon.__doc__ or "", page):
        for state, moves in cordon.NODE.items():
            assert state.name in text
            assert all(event.value in text for event, to in moves.items() if to is not state)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["drain", "undrain", "stop", "step"]),
        st.integers(0, 3),
        st.booleans(),
        st.booleans(),
        st.floats(0.0, 8.0),
    ),
    max_size=40,
)


@given(STEPS)
def test_nothing_has_to_go_while_a_node_is_up_and_steps_only_follow_one_another(
    steps: list[tuple[str, int, bool, bool, float]],
) -> None:
    """Spare, then all, then what runs; each limit has passed by then; up means that nothing has to go."""
    node = Cordon(HELD_LIMIT_S, RUNNING_LIMIT_S)
    order = [Leaving.NOTHING, Leaving.SPARE, Leaving.ALL, Leaving.RUNNING]
    now, since, epoch, furthest = 0.0, 0.0, 0, Leaving.NOTHING
    for what, word, held, left, seconds in steps:
        now += seconds
        if what == "step":
            leaving = node.step(held=held, left=left, now=now)
            assert leaving is Leaving.NOTHING or node.state is State.DRAINING
            if node.state is State.DRAINING:
                assert order.index(leaving) >= order.index(furthest)
                furthest = leaving
                assert leaving is not Leaving.SPARE or (held and now - since < HELD_LIMIT_S)
                assert leaving is not Leaving.RUNNING or now - since >= RUNNING_LIMIT_S
            continue
        before = node.state
        if what == "stop":
            node.stop(now)
        else:
            refusal = node.order(what == "drain", word, now)
            assert (refusal == Refusal.STALE) == (word < epoch)
            epoch = max(epoch, word)
            if refusal:
                assert node.state is before
        if before is State.UP or node.state is State.UP:
            since, furthest = now, Leaving.NOTHING
        assert not (node.stopping and node.state is State.UP)
