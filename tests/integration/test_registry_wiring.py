"""Consumers and schedules follow what is deployed: made before it is visible, kept while it is the same, then gone."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from mayfly_chassis import jetstream
from mayfly_chassis.bus import Bus
from mayfly_chassis.objects import ObjectStore
from mayfly_proto import api, headers, storage, subjects
from mayfly_registry.allowed import Allowed
from mayfly_registry.changes import Changes
from mayfly_registry.config import RegistryConfig
from mayfly_registry.errors import Conflict, InvalidManifest
from mayfly_registry.pausing import Pausing
from mayfly_registry.publish import Step
from mayfly_registry.queries import Queries
from mayfly_registry.reconcile import Reconciler
from mayfly_registry.store import Store
from mayfly_registry.upkeep import Upkeep
from mayfly_registry.wiring import Wiring
from tests.conftest import Connect
from tests.integration.registry_driver import ACCESS, answer_probes, consumers, deploy, schedules, spec, take

CREATED = {"event": "orders.*.created"}
EVERY = {"schedule": "@every 1h", "payload": {"job": 1}}
CALLS = {(storage.ASYNC, "hello"), (storage.SCHEDULES, "hello")}


@pytest.fixture
async def bus(connect: Connect) -> AsyncIterator[Bus]:
    """A connection with the registry's permissions, beside a router that answers every probe."""
    await answer_probes(await connect("router"))
    yield await connect("registry")


def changes(bus: Bus) -> Changes:
    verbs = Changes(bus, Store(bus), Wiring(bus), RegistryConfig())
    verbs._allowed = Allowed(access=ACCESS)
    return verbs


def pausing(bus: Bus) -> Pausing:
    return Pausing(Store(bus), Wiring(bus))


async def upkeep(bus: Bus, *, grace_s: float = 300.0, later_s: float = 0.0) -> None:
    now = datetime.now(UTC) + timedelta(seconds=later_s)
    await Upkeep(bus, Store(bus), Wiring(bus)).consumers_and_schedules(now - timedelta(seconds=grace_s))


async def publish_event(bus: Bus, name: str, payload: bytes = b"1") -> int:
    return await jetstream.publish(bus, subjects.event(name), payload)


async def test_deployed_trigger_has_no_consumer(bus: Bus, connect: Connect) -> None:
    """Each durable trigger has a consumer of its own; calls and what is due have one each."""
    made = await deploy(bus, spec(CREATED, {"event": "orders.eu.paid"}, EVERY, {"http": "/x"}))
    assert [trigger.number for trigger in made.triggers] == [1, 2, 3, 0]
    found = await consumers(bus)
    assert set(found) == CALLS | {(storage.EVENTS, "hello_1"), (storage.EVENTS, "hello_2")}
    assert {info.function for info in found.values()} == {"hello"}
    operator = await connect("operator")
    info = await jetstream.api(operator, subjects.consumer_info(storage.EVENTS, "hello_1"))
    config = info["config"]
    assert (config["ack_policy"], config["ack_wait"], config["max_deliver"]) == ("explicit", 10**10, -1)
    assert (config["filter_subject"], config["max_ack_pending"]) == ("event.orders.*.created", 10_000)
    (message,) = (await schedules(bus)).values()
    fields = headers.parse(message.headers)
    assert message.subject == subjects.schedule("hello", "t3")
    assert (fields[headers.SCHEDULE], fields[headers.SCHEDULE_TARGET]) == ("@every 1h", subjects.due("hello"))
    assert (fields[headers.TTL], message.payload) == ("never", b'{"job":1}')


async def test_position_is_lost_by_a_deploy_or_a_rollback(bus: Bus, connect: Connect) -> None:
    """What was acknowledged does not come again, what came in between does, whatever is deployed or rolled back."""
    operator = await connect("operator")
    await deploy(bus, spec(CREATED))
    await publish_event(operator, "orders.eu.created", b"before")
    assert await take(operator, (storage.EVENTS, "hello_1"), 1) == [b"before"]
    await publish_event(operator, "orders.eu.created", b"between")
    second = await deploy(bus, spec({"event": "carts.>"}, CREATED, memory=256))
    assert [trigger.number for trigger in second.triggers] == [2, 1]
    await changes(bus).rollback(api.RollbackRequest(name="hello"))
    assert set(await consumers(bus)) == CALLS | {(storage.EVENTS, "hello_1")}
    await publish_event(operator, "orders.eu.created", b"after")
    assert await take(operator, (storage.EVENTS, "hello_1"), 9) == [b"between", b"after"]


async def test_number_of_a_trigger_that_is_gone_is_given_to_another(bus: Bus) -> None:
    """A number means one trigger for as long as a version has it, so a consumer's filter never changes."""
    await deploy(bus, spec(CREATED))
    other = await deploy(bus, spec({"event": "carts.>"}))
    again = await deploy(bus, spec(CREATED, {"event": "carts.>"}, {"event": "users.>"}))
    assert [trigger.number for trigger in other.triggers] == [2]
    assert [trigger.number for trigger in again.triggers] == [1, 2, 3]


async def test_two_deploys_at_once_give_one_number_to_two_triggers(bus: Bus) -> None:
    """Another deploy that is on its way has taken the number: this one chooses again."""
    first = await deploy(bus, spec(CREATED), Step.WRITTEN)
    second = await deploy(bus, spec({"event": "carts.>"}))
    assert [first.triggers[0].number, second.triggers[0].number] == [1, 2]


async def test_consumer_of_a_dropped_trigger_stays(bus: Bus) -> None:
    """A consumer that nobody pulls from would hold events back for ever."""
    await deploy(bus, spec(CREATED, EVERY))
    await deploy(bus, spec())
    assert set(await consumers(bus)) == CALLS
    assert await schedules(bus) == {}


async def test_schedule_is_published_again_by_every_deploy(bus: Bus) -> None:
    """An interval keeps its phase; one whose payload changes is replaced, once its version is published."""
    await deploy(bus, spec(EVERY))
    (first,) = (await schedules(bus)).values()
    await deploy(bus, spec(EVERY, memory=256))
    (second,) = (await schedules(bus)).values()
    assert second.sequence == first.sequence
    changed = EVERY | {"payload": {"job": 2}}
    await deploy(bus, spec(changed), Step.WIRED)
    (third,) = (await schedules(bus)).values()
    assert third.payload == first.payload
    await deploy(bus, spec(changed))
    (fourth,) = (await schedules(bus)).values()
    assert fourth.payload == b'{"job":2}'


@pytest.mark.parametrize(
    ("trigger", "sentence"),
    [
        ({"stream": "ORDERS", "subject": "orders.>"}, "triggers[0].stream: there is no stream ORDERS"),
        ({"object": "uploads"}, "triggers[0].object: there is no bucket uploads"),
    ],
)
async def test_trigger_on_nothing_is_published(bus: Bus, trigger: dict[str, str], sentence: str) -> None:
    """A stream or bucket that does not exist is refused before anything is visible."""
    with pytest.raises(InvalidManifest) as refused:
        await deploy(bus, spec(trigger))
    assert str(refused.value) == sentence
    assert await Queries(Store(bus)).functions() == []


async def test_users_stream_cannot_trigger(bus: Bus, connect: Connect) -> None:
    """A stream of the user's: from its beginning when the trigger says so; its consumer goes with the function."""
    operator = await connect("operator")
    config = {"name": "ORDERS", "subjects": ["orders.>"], "retention": "limits", "storage": "file"}
    await jetstream.api(operator, subjects.stream_create("ORDERS"), config)
    await jetstream.publish(operator, "orders.1", b"old")
    await deploy(bus, spec({"stream": "ORDERS", "subject": "orders.>", "start": "all"}))
    assert await take(operator, ("ORDERS", "hello_1"), 1) == [b"old"]
    await changes(bus).delete(api.DeleteRequest(name="hello"))
    assert await consumers(bus) == {}


async def test_work_queue_of_the_users_is_not_explained(bus: Bus, connect: Connect) -> None:
    """The server's reason, with the field that it is about."""
    config = {"name": "ORDERS", "subjects": ["orders.>"], "retention": "workqueue"}
    await jetstream.api(await connect("operator"), subjects.stream_create("ORDERS"), config)
    with pytest.raises(InvalidManifest, match=r"triggers\[0\]\.stream: stream ORDERS does not take.*deliver all"):
        await deploy(bus, spec({"stream": "ORDERS", "subject": "orders.>"}))
    await deploy(bus, spec({"stream": "ORDERS", "subject": "orders.>", "start": "all"}))


async def test_consumer_of_somebody_else_is_taken_over(bus: Bus, connect: Connect) -> None:
    """One that has our name and is none of ours is neither used nor deleted: the deploy says so."""
    operator = await connect("operator")
    await jetstream.api(operator, subjects.stream_create("ORDERS"), {"name": "ORDERS", "subjects": ["orders.>"]})
    of = spec({"stream": "ORDERS", "subject": "orders.>"})
    made = await deploy(bus, of, Step.WRITTEN)
    theirs = {"durable_name": "hello_1", "ack_policy": "explicit", "filter_subject": "orders.a"}
    request = {"stream_name": "ORDERS", "config": theirs}
    await jetstream.api(operator, subjects.consumer_create("ORDERS", "hello_1"), request)
    with pytest.raises(Conflict, match="stream ORDERS has a consumer hello_1 that is none of Mayfly's: delete it"):
        await deploy(bus, of)
    await Wiring(bus).remove("hello", [made])
    assert set(await consumers(bus)) == {("ORDERS", "hello_1")}


async def test_object_cannot_trigger(bus: Bus, connect: Connect) -> None:
    """What is put into the bucket comes as its metadata; chunks do not come."""
    operator = await connect("operator")
    kept = [form("uploads", ">") for form in (subjects.object_chunks, subjects.object_meta)]
    config = {"name": subjects.object_stream("uploads"), "subjects": kept, "allow_rollup_hdrs": True}
    await jetstream.api(operator, subjects.stream_create(config["name"]), config | {"allow_direct": True})
    await deploy(bus, spec({"object": "uploads"}))
    await ObjectStore(operator, "uploads").put("photo.jpg", bytes(300_000))
    (payload,) = await take(operator, (subjects.object_stream("uploads"), "hello_1"), 9)
    assert json.loads(payload)["name"] == "photo.jpg"


async def test_start_of_a_trigger_is_not_what_it_says(bus: Bus, connect: Connect) -> None:
    """New events only, all that are kept, or those since a time."""
    operator = await connect("operator")
    await publish_event(operator, "a.1", b"1")
    since = datetime.now(UTC).isoformat()
    await publish_event(operator, "a.2", b"2")
    starts = {"new": [b"3"], "all": [b"1", b"2", b"3"], since: [b"2", b"3"]}
    for number, start in enumerate(starts):
        await deploy(bus, spec({"event": "a.>", "start": start}, name=f"f{number}"))
    await publish_event(operator, "a.3", b"3")
    for number, expected in enumerate(starts.values()):
        assert await take(operator, (storage.EVENTS, f"f{number}_1"), 9) == expected


async def test_deleted_function_leaves_something(bus: Bus) -> None:
    """Consumers, schedules, retries and what is due go with it; another whose name begins so keeps its own."""
    await deploy(bus, spec(CREATED, EVERY))
    await deploy(bus, spec(CREATED, EVERY, name="hello.world"))
    for function in ("hello", "hello.world"):
        await jetstream.publish(bus, subjects.due(function), b"retry")
        fields = {headers.SCHEDULE: "@at 2100-01-01T00:00:00Z", headers.SCHEDULE_TARGET: subjects.due(function)}
        await jetstream.publish(bus, subjects.schedule(function, "A7"), b"retry", headers=headers.block(fields))
    await changes(bus).delete(api.DeleteRequest(name="hello"))
    assert {info.function for info in (await consumers(bus)).values()} == {"hello.world"}
    assert set(await schedules(bus)) == {
        subjects.due("hello.world"),
        subjects.schedule("hello.world", "A7"),
        subjects.schedule("hello.world", "t2"),
    }


@pytest.mark.parametrize("last", [Step.WRITTEN, Step.WIRED])
async def test_half_made_update_leaves_its_wiring(bus: Bus, last: Step) -> None:
    """Stopped before it is published: what it made stays while it could be on its way, then goes; the rest is whole."""
    await deploy(bus, spec(CREATED))
    await deploy(bus, spec({"event": "carts.>"}, EVERY), last)
    before = (await consumers(bus), await schedules(bus))
    await upkeep(bus)
    assert set((await consumers(bus), await schedules(bus))[0]) == set(before[0])
    await Reconciler(bus, Store(bus), 300.0).once(datetime.now(UTC) + timedelta(seconds=301))
    await upkeep(bus, later_s=301)
    assert set(await consumers(bus)) == CALLS | {(storage.EVENTS, "hello_1")}
    assert await schedules(bus) == {}


async def test_update_cut_short_after_publishing_is_never_finished(bus: Bus) -> None:
    """Published and then killed: the next round does what was left, and keeps what both versions need."""
    await deploy(bus, spec(CREATED, EVERY, {"event": "gone.>"}))
    await deploy(bus, spec(CREATED, EVERY | {"payload": 2}), Step.PUBLISHED)
    await upkeep(bus, later_s=301)
    assert set(await consumers(bus)) == CALLS | {(storage.EVENTS, "hello_1")}
    (schedule,) = (await schedules(bus)).values()
    assert schedule.payload == b"2"


async def test_missing_consumer_or_schedule_stays_missing(bus: Bus, connect: Connect) -> None:
    """Deleted by hand, they are made again; other people's consumers are never touched."""
    operator = await connect("operator")
    await deploy(bus, spec(CREATED, EVERY))
    theirs = {"durable_name": "mine", "ack_policy": "explicit", "filter_subject": "event.>"}
    request = {"stream_name": storage.EVENTS, "config": theirs}
    await jetstream.api(operator, subjects.consumer_create(storage.EVENTS, "mine"), request)
    for key in [*CALLS, (storage.EVENTS, "hello_1")]:
        await jetstream.api(operator, subjects.consumer_delete(*key))
    await jetstream.api(operator, subjects.stream_purge(storage.SCHEDULES))
    await upkeep(bus, later_s=1000)
    assert set(await consumers(bus)) == CALLS | {(storage.EVENTS, "hello_1"), (storage.EVENTS, "mine")}
    assert len(await schedules(bus)) == 1


async def test_wiring_of_an_unreadable_function_is_removed(bus: Bus, connect: Connect) -> None:
    """A record that somebody broke by hand costs no consumer its position."""
    operator = await connect("operator")
    await deploy(bus, spec(CREATED, EVERY))
    before = set(await consumers(bus)), set(await schedules(bus))
    await jetstream.publish(operator, subjects.kv(storage.FUNCTIONS, "hello"), b"{")
    await upkeep(bus, later_s=1000)
    assert (set(await consumers(bus)), set(await schedules(bus))) == before


async def test_paused_function_gets_events(bus: Bus, connect: Connect) -> None:
    """Paused, nothing is handed out, not by a consumer that a deploy makes then either; resumed, all is there."""
    operator = await connect("operator")
    await deploy(bus, spec(CREATED))
    assert (await pausing(bus).pause(api.PauseRequest(name="hello"))).paused
    await deploy(bus, spec(CREATED, {"event": "carts.>"}), Step.WIRED)
    assert all(info.paused for info in (await consumers(bus)).values())
    await deploy(bus, spec(CREATED, {"event": "carts.>"}))
    await publish_event(operator, "orders.eu.created", b"1")
    await publish_event(operator, "carts.7", b"2")
    assert all(info.paused for info in (await consumers(bus)).values())
    assert await take(operator, (storage.EVENTS, "hello_1"), 1) == []
    reply = await pausing(bus).resume(api.PauseRequest(name="hello"))
    assert (reply.paused, reply.waiting) == (False, 2)
    assert await take(operator, (storage.EVENTS, "hello_1"), 1) == [b"1"]
    assert await take(operator, (storage.EVENTS, "hello_2"), 1) == [b"2"]


@pytest.mark.parametrize("paused", [True, False])
async def test_half_done_pause_is_never_finished(bus: Bus, paused: bool) -> None:
    """The record says what was wanted; consumers follow in the next round."""
    await deploy(bus, spec(CREATED))
    if not paused:
        await pausing(bus).pause(api.PauseRequest(name="hello"))
    await pausing(bus)._write("hello", paused=paused)
    await upkeep(bus)
    assert {info.paused for info in (await consumers(bus)).values()} == {paused}


async def test_pause_is_forgotten_by_a_rollback(bus: Bus) -> None:
    """Deploy and rollback keep the flag."""
    await deploy(bus, spec(CREATED))
    await deploy(bus, spec(CREATED, memory=256))
    await pausing(bus).pause(api.PauseRequest(name="hello"))
    await changes(bus).rollback(api.RollbackRequest(name="hello"))
    await deploy(bus, spec(CREATED, memory=512))
    assert (await Store(bus).record("hello")).paused


async def test_narrowed_access_is_passed_by_a_rollback(bus: Bus, connect: Connect) -> None:
    """What a version may touch is looked at again when it comes back."""
    await jetstream.api(
        await connect("operator"), subjects.stream_create("ORDERS"), {"name": "ORDERS", "subjects": ["orders.>"]}
    )
    await deploy(bus, spec({"stream": "ORDERS", "subject": "orders.>"}))
    await deploy(bus, spec())
    verbs = Changes(bus, Store(bus), Wiring(bus), RegistryConfig())
    with pytest.raises(InvalidManifest, match=r"trigger_subjects in access\.toml"):
        await verbs.rollback(api.RollbackRequest(name="hello"))


async def test_two_thousand_functions_take_a_request_each(bus: Bus, connect: Connect) -> None:
    """A round over many consumers reads them by the page."""
    operator = await connect("operator")
    await deploy(bus, spec(*({"event": f"e{number}.x"} for number in range(100))))
    asked: list[bytes] = []
    await operator.subscribe("$JS.API.CONSUMER.>", lambda subject, *_: asked.append(subject))
    await operator.subscribe("$JS.API.DIRECT.>", lambda subject, *_: asked.append(subject))
    await operator.flush()
    await upkeep(bus)
    await operator.flush()
    assert 3 < len(asked) < 20, json.dumps([subject.decode() for subject in asked])
