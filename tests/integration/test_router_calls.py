"""Calls through a real router and a real activator, on a real NATS server, to a scripted worker."""

import asyncio

from mayfly_chassis.kv import Bucket
from mayfly_proto import headers, storage, subjects
from mayfly_proto.errors import ErrorType
from tests.conftest import Eventually
from tests.integration.router_peers import Platform


async def test_first_call_starts_an_instance_and_the_second_uses_it(mayfly: Platform) -> None:
    """A call on nothing waits for a cold start; the next one goes to the same instance."""
    await mayfly.router()
    await mayfly.activator()
    worker = await mayfly.worker()
    await mayfly.deploy()
    first = await mayfly.call(payload=b"one")
    second = await mayfly.call(payload=b"two")
    assert (first["echo"], second["echo"]) == ("one", "two")
    assert first["instance"] == second["instance"]
    assert worker.most == 1


async def test_two_hundred_at_once_on_nothing_are_each_answered_once(mayfly: Platform) -> None:
    """A burst on a function at zero is answered completely, by at most 32 starts under way."""
    await mayfly.router()
    await mayfly.activator()
    worker = await mayfly.worker()
    worker.service_s = 0.005
    await mayfly.deploy()
    answers = await asyncio.gather(*(mayfly.call(payload=b"%d" % k) for k in range(200)))
    assert sorted(int(answer["echo"]) for answer in answers) == list(range(200))
    assert set(worker.runs.values()) == {1}
    assert worker.most <= 64


async def test_a_thousand_calls_never_exceed_four_instances(mayfly: Platform) -> None:
    """With max_instances = 4 a flood is served by four instances, in order, each call once."""
    await mayfly.router()
    await mayfly.activator()
    workers = [await mayfly.worker(name) for name in ("n1", "n2")]
    await mayfly.deploy(max_instances=4)
    answers = await asyncio.gather(*(mayfly.call(payload=b"%d" % k) for k in range(1000)))
    assert sorted(int(answer["echo"]) for answer in answers) == list(range(1000))
    assert sum(worker.most for worker in workers) == 4


async def test_two_small_nodes_get_an_instance_each(mayfly: Platform) -> None:
    """Where each node has room for one instance, two calls at once run on both nodes."""
    await mayfly.router()
    await mayfly.activator()
    workers = [await mayfly.worker(name, memory_mb=128) for name in ("n1", "n2")]
    for worker in workers:
        worker.service_s = 0.3
    await mayfly.deploy(activation="eager")
    answers = await asyncio.gather(mayfly.call(), mayfly.call())
    assert len({answer["instance"] for answer in answers}) == 2
    assert [worker.most for worker in workers] == [1, 1]


async def test_a_route_deleted_by_hand_is_not_used(mayfly: Platform) -> None:
    """`nats kv del routes` takes the capacity away until the worker writes it again."""
    await mayfly.router()
    await mayfly.activator()
    worker = await mayfly.worker()
    await mayfly.deploy(max_instances=1)
    await mayfly.call()
    await Bucket(worker.bus, storage.ROUTES).delete(storage.route_key("n1", 1, "f"))
    await mayfly.until(lambda state: state["functions"]["f"]["ready"] == 0)
    waiting = asyncio.create_task(mayfly.call(payload=b"late"))
    await mayfly.until(lambda state: state["functions"]["f"]["queued"] == 1)
    assert worker.runs[b"late"] == 0
    await worker.write_route("f", 1)
    assert (await waiting)["echo"] == "late"


async def test_warm_calls_go_on_without_an_activator_and_cold_ones_wait(mayfly: Platform) -> None:
    """The activator is asked for new instances only; calls that need one wait until it is back."""
    await mayfly.router()
    activator = await mayfly.activator()
    await mayfly.worker()
    await mayfly.deploy("warm")
    await mayfly.deploy("cold")
    await mayfly.call("fn.warm")
    await activator.aclose()
    assert (await mayfly.call("fn.warm"))["echo"] == "x"
    waiting = asyncio.create_task(mayfly.call("fn.cold"))
    assert (await mayfly.call("fn.warm"))["echo"] == "x"
    assert not waiting.done()
    await mayfly.activator()
    assert (await waiting)["echo"] == "x"


async def test_a_call_that_nobody_can_take_in_time_gets_408(mayfly: Platform) -> None:
    """The caller's own deadline is kept while the call waits."""
    await mayfly.router()
    await mayfly.deploy()
    error = await mayfly.call(**{headers.TIMEOUT_MS: "150"})
    assert error.kind is ErrorType.DEADLINE_EXCEEDED
    assert error.invocation and error.component == "router"


async def test_a_timeout_that_is_no_number_gets_400(mayfly: Platform) -> None:
    """A malformed Mayfly-Timeout-Ms is refused, with its value and what would be right."""
    await mayfly.router()
    await mayfly.deploy()
    for value in ("soon", "0", "-5", "99999999999999", f"000000000001{10**24}"):
        error = await mayfly.call(**{headers.TIMEOUT_MS: value})
        assert error.kind is ErrorType.BAD_REQUEST
        assert value in error.message


async def test_a_reply_that_nobody_could_publish_to_harms_nobody(mayfly: Platform) -> None:
    """nats-server passes on any byte; such a call is not run, and neither it nor its deadline ends the router."""
    await mayfly.router()
    await mayfly.deploy()
    inbox = mayfly.caller.new_inbox()
    for end in (b"\x01", b"\x7f", b"\xff"):
        raw = headers.block({headers.TIMEOUT_MS: "1"})
        mayfly.caller.publish(b"fn.f", b"x", reply=inbox.encode() + end, headers=raw)
    await mayfly.caller.flush()
    for _ in range(2):  # the second comes when the deadlines of all before have passed
        error = await mayfly.call(**{headers.TIMEOUT_MS: "300"})
        assert error.kind is ErrorType.DEADLINE_EXCEEDED


async def test_a_full_queue_gets_429_with_a_time_to_come_back(mayfly: Platform) -> None:
    """Beyond max_queue waiting calls the next one is refused at once."""
    await mayfly.router()
    await mayfly.deploy(max_queue=2)
    waiting = [asyncio.create_task(mayfly.call(**{headers.TIMEOUT_MS: "1000"})) for _ in range(2)]
    await mayfly.until(lambda state: state["functions"]["f"]["queued"] == 2)
    error = await mayfly.call()
    assert error.kind is ErrorType.THROTTLED
    assert error.retry_after_s >= 1
    assert [late.kind for late in await asyncio.gather(*waiting)] == [ErrorType.DEADLINE_EXCEEDED] * 2


async def test_bytes_that_wait_are_bounded_over_all_functions(mayfly: Platform) -> None:
    """A router holds no more payload than it is allowed to, whichever functions the calls are for."""
    await mayfly.router(backlog_mb=1)
    await mayfly.deploy("a")
    await mayfly.deploy("b")
    waiting = asyncio.create_task(mayfly.call("fn.a", b"x" * 700_000, **{headers.TIMEOUT_MS: "500"}))
    await mayfly.until(lambda state: state["queued_bytes"] > 0)
    error = await mayfly.call("fn.b", b"x" * 700_000)
    assert error.kind is ErrorType.THROTTLED
    assert (await waiting).kind is ErrorType.DEADLINE_EXCEEDED
    assert (await mayfly.state())["queued_bytes"] == 0


async def test_an_event_above_the_limit_gets_413_and_one_at_it_passes(mayfly: Platform) -> None:
    """The limit is max_payload less 64 KB, to the byte; so is a header block that would not fit."""
    await mayfly.router()
    await mayfly.activator()
    worker = await mayfly.worker()
    await mayfly.deploy()
    limit = mayfly.caller.payload_limit
    assert (await mayfly.call(payload=b"x" * (limit + 1))).kind is ErrorType.TOO_LARGE
    assert (await mayfly.call(payload=b"x", Big="y" * 61_000)).kind is ErrorType.TOO_LARGE
    await asyncio.gather(mayfly.call(payload=b"x" * limit, Big="y" * 50_000), return_exceptions=True)
    assert worker.runs[b"x" * limit] == 1


async def test_no_room_anywhere_gets_503_soon(mayfly: Platform) -> None:
    """When every node refuses for lack of memory and nothing of the function exists, waiting on has no sense."""
    await mayfly.router()
    await mayfly.activator()
    await mayfly.worker(memory_mb=100)
    await mayfly.deploy(memory_mb=128)
    error = await mayfly.call()
    assert error.kind is ErrorType.NO_CAPACITY
    assert error.retry_after_s == 1


async def test_a_start_that_fails_answers_those_who_wait_with_the_traceback(mayfly: Platform) -> None:
    """An import error reaches every waiting caller as 502 init_failed; five in a row are not tried at once again."""
    await mayfly.router()
    await mayfly.activator()
    worker = await mayfly.worker()
    worker.init_error = "No module named 'numpyy'"
    await mayfly.deploy()
    for _ in range(5):
        error = await mayfly.call()
        assert error.kind is ErrorType.INIT_FAILED
        assert (error.message, error.traceback) == (worker.init_error, "Trace")
    started = worker.most
    assert (await mayfly.call()).kind is ErrorType.INIT_FAILED
    worker.init_error = ""
    assert worker.most == started == 1
    await asyncio.sleep(0.3)  # the back-off itself is what is tested: 0.2 s and a fifth
    assert (await mayfly.call())["echo"] == "x"


async def test_a_caller_cannot_name_any_subject_as_reply(mayfly: Platform) -> None:
    """The platform publishes answers with its own rights: only inboxes are answered."""
    await mayfly.router()
    await mayfly.activator()
    worker = await mayfly.worker()
    await mayfly.deploy()
    mayfly.caller.publish("fn.f", b"evil", reply="mayfly.router.r1.done")
    assert (await mayfly.call(payload=b"good"))["echo"] == "good"
    assert worker.runs[b"evil"] == 0


async def test_a_call_without_reply_runs(mayfly: Platform, eventually: Eventually) -> None:
    """`nats pub fn.f` runs the function; nobody is answered."""
    await mayfly.router()
    await mayfly.activator()
    worker = await mayfly.worker()
    await mayfly.deploy()
    mayfly.caller.publish("fn.f", b"quiet")
    await eventually(lambda: worker.runs[b"quiet"] == 1)


async def test_the_minimum_is_started_and_held(mayfly: Platform, eventually: Eventually) -> None:
    """min_instances = 2 starts two without any call and tells the nodes to keep them."""
    await mayfly.router()
    await mayfly.activator()
    worker = await mayfly.worker()
    await mayfly.deploy(min_instances=2)
    await eventually(lambda: len(worker.slots) == 2)
    await eventually(lambda: worker.holds and worker.holds[-1].count == 2)


async def test_router_and_activator_are_found_as_micro_services(mayfly: Platform) -> None:
    """`nats micro ls` lists both; the router tells its state as JSON."""
    await mayfly.router()
    await mayfly.activator()
    operator = await mayfly.connect("operator")
    for name in ("router", "activator"):
        replies = await operator.request_many(subjects.service_verb("PING", name), replies=1, timeout_s=5)
        assert len(replies) == 1
    assert (await mayfly.state())["members"] == ["r1"]
