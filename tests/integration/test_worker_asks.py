"""What a handler asks of its node: publish, call, buckets and object stores, within what its manifest lists."""

import asyncio
import json
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mayfly_broker.access import Access
from mayfly_broker.bootstrap import bootstrap
from mayfly_broker.config import make_passwords
from mayfly_broker.server import EmbeddedServer
from mayfly_chassis import jetstream
from mayfly_chassis.bus import Bus
from mayfly_chassis.kv import Bucket
from mayfly_chassis.objects import ObjectStore
from mayfly_proto import codec, headers, messages, storage, subjects
from mayfly_proto.errors import CallError, ErrorType
from tests.integration.worker_driver import NODE, Driver, node, until

ALLOWED = {
    "publish": ["event.orders.>", "alerts.*"],
    "call": ["billing.*", "other"],
    "kv": ["carts"],
    "objects": ["uploads"],
    "timeout_s": 20.0,
}
ACCESS = Access(publish_subjects=("alerts.>",), kv_buckets=("carts",), object_buckets=("uploads",))


@pytest.fixture
async def driver(tmp_path: Path) -> AsyncIterator[Driver]:
    """A node on a server whose operator has opened a few subjects and buckets."""
    with EmbeddedServer(tmp_path / "nats", passwords=make_passwords(), access=ACCESS) as server:
        operator = {"name": "test", "role": "operator", "user": "operator", "password": server.passwords["operator"]}
        bus = await Bus.connect(server.url, **operator)
        await bootstrap(bus)
        for stream in (_bucket("carts"), _store("uploads")):
            await jetstream.api(bus, subjects.stream_create(stream["name"]), stream)
        driver = Driver(bus)
        await driver.listen()
        async with node(server, tmp_path):
            yield driver
        await bus.close()


def _bucket(name: str) -> dict[str, Any]:
    """As ``nats kv add`` makes it, without TTLs of keys."""
    return {
        "name": subjects.kv_stream(name),
        "subjects": [subjects.kv(name, ">")],
        "allow_direct": True,
        "allow_rollup_hdrs": True,
        "max_msgs_per_subject": 1,
        "discard": "new",
    }


def _store(name: str) -> dict[str, Any]:
    return {
        "name": subjects.object_stream(name),
        "subjects": [subjects.object_chunks(name, ">"), subjects.object_meta(name, ">")],
        "allow_direct": True,
        "allow_rollup_hdrs": True,
        "discard": "new",
    }


def source(body: str, *, kind: str = "def") -> str:
    """A handler of that body; an error that it does not catch is its result."""
    text = textwrap.indent(textwrap.dedent(body), "        ")
    return (
        f"{kind} handler(event, context):\n    try:\n{text}\n"
        "    except context.CallError as error:\n        return ['refused', error.type, error.code, str(error)]\n"
    )


async def outcome(driver: Driver, body: str, event: Any = None, *, kind: str = "def", **options: Any) -> Any:
    """Deploys, calls once, and returns the result."""
    await driver.up("hello", source(body, kind=kind), **ALLOWED)
    answer = await driver.call("hello", json.dumps(event).encode(), **options)
    assert answer.kind == "ok", answer.error
    return json.loads(answer.payload) if answer.headers.get("Content-Type") is None else answer.payload


async def heard(driver: Driver, subject: str) -> list[tuple[dict[str, str], bytes]]:
    """What is published there from now on."""
    messages: list[tuple[dict[str, str], bytes]] = []
    await driver.bus.subscribe(subject, lambda _s, _r, raw, payload: messages.append((headers.parse(raw), payload)))
    await driver.bus.flush()
    return messages


async def test_outcome_of_a_delivery_goes_to_whoever_settles_it(driver: Driver) -> None:
    """A router's own reply subjects are taken: the result is published there with the headers of any result."""
    await driver.up("hello")
    for reply in (subjects.settle("hello", "S.c.1.2.3.4.5"), subjects.keyed("hello", "k")):
        outcomes = await heard(driver, reply)
        driver.seq += 1
        invoke = messages.Invoke(driver.seq, "r1", 1, "hello", 1, "E17", reply, 5000)
        driver.bus.publish(subjects.node_invoke(NODE), codec.pack(invoke, b"1"))
        await until(lambda outcomes=outcomes: outcomes)
        fields, payload = outcomes[0]
        assert (fields["Mayfly-Invocation"], payload) == ("E17", b"1")


@pytest.mark.parametrize("kind", ["def", "async def"])
async def test_published_event_is_in_the_stream_with_where_it_came_from(driver: Driver, kind: str) -> None:
    """The id is the stream's; depth, source and CloudEvents attributes are the node's doing."""
    wait = "await " if "async" in kind else ""
    body = f"return {wait}context.publish('event.orders.new', {{'n': 1}}, {{'X-Own': 'yes', 'ce-type': 'mine'}})"
    fields = {"ce-id": "7", "ce-type": "theirs", "ce-traceparent": "00-1", "Mayfly-Depth": "2"}
    assert await outcome(driver, body, kind=kind, fields=fields) == b"E1"
    stored = await jetstream.last(driver.bus, storage.EVENTS, "event.orders.new")
    assert stored is not None
    assert json.loads(stored.payload) == {"n": 1}
    kept = {name: value for name, value in headers.parse(stored.headers).items() if not name.startswith("Nats-")}
    assert kept == {
        "X-Own": "yes",
        "ce-id": "7",
        "ce-type": "mine",
        "ce-traceparent": "00-1",
        "Mayfly-Depth": "3",
        "Mayfly-Source": "inv1",
        "Mayfly-Source-Function": "hello",
    }


async def test_attributes_in_an_envelope_are_passed_on_too(driver: Driver) -> None:
    """Structured mode: the node does not see them, the runtime does."""
    fields = {"Content-Type": "application/cloudevents+json"}
    envelope = {"specversion": "1.0", "id": "7", "source": "shop", "type": "order", "data": {"n": 1}}
    body = "return [event, context.event.source, context.publish('event.orders.new')]"
    assert await outcome(driver, body, envelope, fields=fields) == [{"n": 1}, "shop", "E1"]
    stored = await jetstream.last(driver.bus, storage.EVENTS, "event.orders.new")
    assert stored is not None
    assert headers.parse(stored.headers)["ce-source"] == "shop"


async def test_message_id_makes_a_second_publish_the_first(driver: Driver) -> None:
    """The stream deduplicates by it."""
    body = "return [context.publish('event.orders.new', n, message_id='once') for n in range(2)]"
    assert await outcome(driver, body) == ["E1", "E1"]


async def test_core_publish_is_heard_and_has_no_id(driver: Driver) -> None:
    """Outside event.> nothing is acknowledged."""
    alerts = await heard(driver, "alerts.fire")
    assert await outcome(driver, "return context.publish('alerts.fire', 'smoke')") is None
    await until(lambda: alerts)
    fields, payload = alerts[0]
    assert (payload, fields["Content-Type"]) == (b"smoke", "text/plain; charset=utf-8")


@pytest.mark.parametrize(
    ("ask", "sentence"),
    [
        ("publish('event.users.new')", "publish in the manifest does not cover event.users.new"),
        ("publish('alerts.a.b')", "publish in the manifest does not cover alerts.a.b"),
        ("publish('mayfly.router.r1.done')", "publish in the manifest does not cover mayfly.router.r1.done"),
        ("call('billing')", "call in the manifest does not cover billing"),
        ("kv('routes').put('n1.1.evil', b'')", "kv in the manifest does not name routes"),
        ("objects('code').get('x')", "objects in the manifest does not name code"),
    ],
)
async def test_what_the_manifest_does_not_list_is_refused_by_name(driver: Driver, ask: str, sentence: str) -> None:
    """403 in the handler, and the setting that would allow it."""
    assert await outcome(driver, f"return context.{ask}") == ["refused", "forbidden", 403, sentence]


@pytest.mark.parametrize(
    "given", ["{'Mayfly-Depth': '0'}", "{'nats-msg-id': 'x'}", "{'X-A': 'a\\r\\nMayfly-Depth: 0'}", "{'X A': '1'}"]
)
async def test_headers_of_the_platforms_cannot_be_set(driver: Driver, given: str) -> None:
    """Neither by name nor by a line break in a value."""
    events = await heard(driver, subjects.EVENTS)
    refused = await outcome(driver, f"return context.publish('event.orders.new', 1, {given})")
    assert refused[:2] == ["refused", "bad_request"]
    await driver.bus.flush()
    assert events == []


async def test_event_that_goes_in_a_circle_stops(driver: Driver) -> None:
    """At the limit of functions that it has come through, nothing further is published or called."""
    body = "return context.call('other')"
    refused = await outcome(driver, body, fields={"Mayfly-Depth": str(headers.DEPTH_LIMIT)})
    assert refused[:3] == ["refused", "loop", 508]


@pytest.mark.parametrize("kind", ["def", "async def"])
async def test_call_returns_what_the_function_returns(driver: Driver, kind: str) -> None:
    """Decoded by its content type; the time that is left goes with it, and so does where it comes from."""
    asked: list[dict[str, str]] = []

    def answer(_subject: bytes, reply: bytes, raw: bytes | None, payload: bytes) -> None:
        asked.append(headers.parse(raw))
        driver.bus.publish(reply, payload, headers=headers.block({"Mayfly-Start": "warm"}))

    await driver.bus.subscribe(subjects.call("billing.charge", 2), answer)
    await driver.bus.flush()
    wait = "await " if "async" in kind else ""
    assert await outcome(
        driver, f"return {wait}context.call('billing.charge@2', event, timeout=3)", [1], kind=kind
    ) == [1]
    assert 2000 < int(asked[0]["Mayfly-Timeout-Ms"]) <= 3000
    assert (asked[0]["Mayfly-Depth"], asked[0]["Mayfly-Source"]) == ("1", "inv1")


async def test_error_of_a_called_function_is_raised_as_it_is(driver: Driver) -> None:
    """Type, code and sentence."""
    error = CallError(ErrorType.THROTTLED, "slow down", component="router")
    await driver.bus.subscribe(
        subjects.call("other"),
        lambda _s, reply, _h, _p: driver.bus.publish(reply, error.body(), headers=error.headers()),
    )
    await driver.bus.flush()
    assert await outcome(driver, "return context.call('other')") == ["refused", "throttled", 429, "slow down"]


async def test_call_that_nobody_has_seen_is_sent_again(driver: Driver) -> None:
    """A router that comes a moment later still answers; a function that is not there is a 404."""
    body = "return context.call(event)"
    await driver.up("hello", source(body), **ALLOWED)
    call = driver.send("hello", b'"other"')
    await driver.bus.subscribe(subjects.call("other"), lambda _s, reply, _h, _p: driver.bus.publish(reply, b"2"))
    assert (await call).payload == b"2"
    missing = json.loads((await driver.call("hello", b'"billing.gone"')).payload)
    assert missing[:3] == ["refused", "not_found", 404]


async def test_call_beyond_its_timeout_is_given_up(driver: Driver) -> None:
    """The handler goes on, with an error."""
    await driver.bus.subscribe(subjects.call("other"), lambda *_: None)
    await driver.bus.flush()
    refused = await outcome(driver, "return context.call('other', timeout=0.1)")
    assert refused[:3] == ["refused", "deadline_exceeded", 408]


@pytest.mark.parametrize("kind", ["def", "async def"])
async def test_keys_are_written_read_listed_and_deleted(driver: Driver, kind: str) -> None:
    """With revisions, in a bucket as the CLI makes it; a stale write is refused, and so is a second create."""
    body = """
        carts = context.kv('carts')
        first = WAIT carts.put('ada.1', {'items': 1})
        entry = WAIT carts.entry('ada.1')
        assert entry.value == b'{"items":1}' and entry.revision == first
        assert WAIT carts.get_json('ada.1') == {'items': 1}
        second = WAIT carts.update('ada.1', b'two', first)
        refused = []
        try:
            WAIT carts.update('ada.1', b'three', first)
        except context.CallError as error:
            refused.append(error.type)
        try:
            WAIT carts.create('ada.1', b'four')
        except context.CallError as error:
            refused.append(error.type)
        WAIT carts.create('ada.20', 'x')
        WAIT carts.create('bob.1', 'x')
        listed = WAIT carts.keys('ada.')
        narrow = WAIT carts.keys('ada.2')
        WAIT carts.delete('ada.1')
        gone = WAIT carts.get('ada.1')
        return [second - first, refused, listed, narrow, gone, WAIT carts.keys()]
    """.replace("WAIT ", "await " if "async" in kind else "")
    expected = [1, ["conflict", "conflict"], ["ada.1", "ada.20"], ["ada.20"], None, ["ada.20", "bob.1"]]
    assert await outcome(driver, body, kind=kind) == expected
    entry = await Bucket(driver.bus, "carts").get("bob.1")
    assert entry is not None
    assert entry.value == b"x"


@pytest.mark.parametrize("key", ["", "a b", "a..b", ".a", "*", ">", "a\r\nb"])
async def test_odd_keys_are_refused(driver: Driver, key: str) -> None:
    """A key is part of a subject: nothing in it may reach further."""
    refused = await outcome(driver, "return context.kv('carts').put(event, b'')", key)
    assert refused[:2] == ["refused", "bad_request"]


@pytest.mark.parametrize("kind", ["def", "async def"])
async def test_large_object_goes_in_and_out_whole(driver: Driver, kind: str) -> None:
    """Above what one message carries; in the layout of every other client, and nothing is left of what it replaced."""
    body = """
        store = context.objects('uploads')
        WAIT store.put('big', b'old' * 400_000)
        info = WAIT store.put('big', b'0123456789' * 1_000_000)
        assert info == (WAIT store.info('big')), info
        data = WAIT store.get('big')
        WAIT store.put('small', 'text')
        WAIT store.put('empty', b'')
        assert (WAIT store.get('empty')) == b''
        names = WAIT store.list()
        WAIT store.delete('small')
        return [len(data), info.size, names, WAIT store.info('small')]
    """.replace("WAIT ", "await " if "async" in kind else "")
    result = await outcome(driver, body, kind=kind)
    assert result == [10_000_000, 10_000_000, ["big", "small", "empty"], None]
    assert await ObjectStore(driver.bus, "uploads").get("big") == b"0123456789" * 1_000_000
    state = await jetstream.api(driver.bus, subjects.stream_info(subjects.object_stream("uploads")))
    assert state["state"]["messages"] == 20 + 3  # chunks of one object, and what is said of three


async def test_missing_object_and_store_say_so(driver: Driver) -> None:
    """404 either way, with a name."""
    body = "return context.objects('uploads').get('none')"
    assert await outcome(driver, body) == ["refused", "not_found", 404, "uploads has no object none"]


async def test_threads_of_a_plain_handler_ask_one_after_the_other(driver: Driver) -> None:
    """Each gets its own answer."""
    body = """
        from concurrent.futures import ThreadPoolExecutor
        carts = context.kv('carts')
        def work(n):
            carts.put(f'k{n}', str(n))
            return int(carts.get(f'k{n}'))
        with ThreadPoolExecutor(8) as pool:
            return list(pool.map(work, range(40)))
    """
    assert await outcome(driver, body) == list(range(40))


async def test_more_asks_at_once_than_are_allowed_wait_in_the_instance(driver: Driver) -> None:
    """A handler need not count: two hundred tasks, each with its own answer."""
    body = """
        import asyncio
        carts = context.kv('carts')
        await asyncio.gather(*(carts.put(f'k{n}', str(n)) for n in range(200)))
        return [int(v) for v in await asyncio.gather(*(carts.get(f'k{n}') for n in range(200)))]
    """
    assert await outcome(driver, body, kind="async def") == list(range(200))


async def test_ask_in_a_thread_holds_the_end_of_the_call_not_the_next(driver: Driver) -> None:
    """What has begun is answered first; what begins after the end is refused, and the next call works."""
    text = """
        import threading
        kept = []
        def handler(event, context):
            if event == 1:
                kept.append(context)
                begun = threading.Event()
                def work():
                    begun.set()
                    for n in range(50):
                        context.kv('carts').put('k', str(n))
                threading.Thread(target=work).start()
                begun.wait()
                return 'begun'
            try:
                kept[0].kv('carts').get('k')
            except context.CallError as error:
                return [error.type, context.kv('carts').get('k') is None or True]
    """
    await driver.up("hello", textwrap.dedent(text), **ALLOWED)
    assert (await driver.call("hello", b"1")).payload == b"begun"
    assert json.loads((await driver.call("hello", b"2")).payload) == ["conflict", True]
    assert len(await driver.instances()) == 1


async def test_plain_function_with_concurrency_keeps_events_that_come_meanwhile(driver: Driver) -> None:
    """Events and answers share a socket: none is lost, whichever comes first."""
    body = "context.kv('carts').put('k', str(event))\nreturn event"
    await driver.up("hello", source(body), concurrency=4, **ALLOWED)
    answers = await asyncio.gather(*(driver.call("hello", str(n).encode()) for n in range(4)))
    assert sorted(int(answer.payload) for answer in answers) == [0, 1, 2, 3]


async def test_call_above_its_time_ends_what_it_asked_for(driver: Driver) -> None:
    """Nothing of it is left on the node."""

    def asks() -> list[str]:
        return [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("ask.")]

    await driver.bus.subscribe(subjects.call("other"), lambda *_: None)
    await driver.bus.flush()
    await driver.up("hello", source("return context.call('other')"), **ALLOWED | {"timeout_s": 0.3})
    call = driver.send("hello")
    await until(asks)
    await call
    await until(lambda: not asks())


def _frame(ask: int, call: object, verb: object, arguments: object, payload: bytes = b"") -> bytes:
    raw = msgspec.msgpack.encode((ask, call, verb, arguments))
    return codec.INSTANCE_HEAD.pack(8, len(raw), len(payload)) + raw + payload


@pytest.mark.parametrize(
    "frame",
    [
        _frame(1, 1, "shell", ["rm"]),
        _frame(1, 1, "kv.get", ["carts"]),
        _frame(1, 1, "kv.get", ["carts", "k", "more"]),
        _frame(1, 1, "kv.get", {"bucket": "carts"}),
        _frame(1, 1, "publish", ["event.orders.x", {"a": 1}, None]),
        _frame(1, "1", "kv.get", ["carts", "k"]),
        _frame(1, 1, "kv.get", ["carts", "k"])[:-1] + b"\xc1",
        b"".join(_frame(n, 1, "call", ["other", {}, None]) for n in range(65)),
        b"".join(_frame(n, 99, "kv.get", ["carts", "k"]) for n in range(200_000)),
    ],
    ids=["verb", "few", "many", "map", "types", "call", "msgpack", "flood", "unread"],
)
async def test_malformed_asks_end_the_instance_and_no_other(driver: Driver, frame: bytes, tmp_path: Path) -> None:
    """A frame that breaks the contract, more asks than it allows, or answers that nobody takes."""
    await driver.bus.subscribe(subjects.call("other"), lambda *_: None)
    await driver.bus.flush()
    hostile = (
        "import os\ndef handler(event, context):\n    data = memoryview(event)\n"
        "    while data: data = data[os.write(3, data):]\n    while True: pass\n"
    )
    await driver.up("hello", hostile, payload="bytes", **ALLOWED)
    await driver.up("neighbour")
    if len(frame) > driver.bus.payload_limit // 2:
        frame = frame[: driver.bus.payload_limit // 2]
    answer = await driver.call("hello", frame)
    assert answer.kind == "instance_crashed"
    assert "broke the runtime's contract" in answer.error.traceback  # type: ignore[union-attr]
    assert (await driver.call("neighbour")).kind == "ok"


async def test_instance_cannot_ask_for_the_call_of_another(driver: Driver) -> None:
    """It is told that there is no such call, and nothing is done."""
    text = """
        import os
        def handler(event, context):
            os.write(3, event)
            return context.kv('carts').get('k') is None
    """
    await driver.up("hello", textwrap.dedent(text), payload="bytes", **ALLOWED)
    forged = _frame(1_000_000, 77, "kv.put", ["carts", "k", None], b"x")
    assert (await driver.call("hello", forged)).payload == b"true"
