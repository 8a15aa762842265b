"""Events and batches as handlers see them."""

import json
from typing import Any

import msgspec
import pytest

from mayfly_proto import headers
from mayfly_proto.records import Batch
from tests.conftest import Eventually
from tests.integration.runtime_driver import Instance, Node

SHOWN = """
    import dataclasses
    def handler(event, context):
        return [event, context.event and dataclasses.asdict(context.event)]
"""
BATCH: dict[str, Any] = {"batch": Batch()}


async def shown(node: Node, payload: bytes, fields: dict[str, str] | None) -> tuple[Any, Any]:
    instance = await node.start(SHOWN)
    event, described = (await instance.call(payload, headers=headers.block(fields) if fields else None)).json
    return event, described


async def test_plain_call_is_an_event(node: Node) -> None:
    """Neither without headers nor with some."""
    assert await shown(node, b"1", None) == (1, None)
    assert await shown(node, b"1", {"X-A": "1", "Content-Type": "application/json"}) == (1, None)


async def test_binary_attributes_are_lost(node: Node) -> None:
    """``ce-*`` in any case, percent-encoded; extensions; the content type is an attribute."""
    fields = {
        "ce-id": "7",
        "Ce-Source": "/shop",
        "ce-type": "order%20new",
        "ce-specversion": "1.0",
        "ce-trace": "x",
        "Content-Type": "text/plain",
        "Mayfly-Subject": "event.orders",
    }
    event, described = await shown(node, b"5", fields)
    assert event == "5"
    attributes = {
        "id": "7",
        "source": "/shop",
        "type": "order new",
        "specversion": "1.0",
        "trace": "x",
        "datacontenttype": "text/plain",
    }
    assert described == {
        **{name: attributes.get(name) for name in ("id", "source", "type", "specversion", "datacontenttype")},
        "subject": None,
        "time": None,
        "dataschema": None,
        "nats_subject": "event.orders",
        "attributes": attributes,
    }


@pytest.mark.parametrize(
    ("data", "event"),
    [({"data": {"n": 1}}, {"n": 1}), ({"data_base64": "AQI="}, "0102"), ({"data": "text"}, "text"), ({}, None)],
)
async def test_envelope_reaches_handler(node: Node, data: dict[str, Any], event: object) -> None:
    """Structured mode: the event is what is in the envelope."""
    source = """
        def handler(event, context):
            about = context.event
            return [event.hex() if isinstance(event, bytes) else event, about.id, about.time, about.attributes]
    """
    envelope = {"specversion": "1.0", "id": "7", "source": "s", "type": "t", "time": "2030-01-01T00:00:00Z", "n": 3}
    instance = await node.start(source)
    block = headers.block({"Content-Type": "application/cloudevents+json; charset=utf-8"})
    answer = (await instance.call(envelope | data, headers=block)).json
    assert answer == [event, "7", "2030-01-01T00:00:00Z", envelope | {"n": "3"}]


@pytest.mark.parametrize("payload", [b"[1]", b"{", b'{"data_base64": "?"}', b'{"data_base64": 1}'])
async def test_malformed_envelope_reaches_handler(node: Node, payload: bytes) -> None:
    """It is the publisher's error."""
    instance = await node.start(SHOWN)
    answer = await instance.call(payload, headers=headers.block({"Content-Type": "application/cloudevents+json"}))
    assert answer.kind == "bad_request"


async def test_event_without_attributes_has_no_name(node: Node) -> None:
    """Defaults; the router's word on the subject is the last one of that header."""
    block = headers.appended(headers.block({"Mayfly-Subject": "forged"}), "Mayfly-Subject", b"event.orders.new")
    instance = await node.start(SHOWN)
    _, described = (await instance.call(1, headers=block)).json
    assert (described["id"], described["source"], described["type"]) == ("inv-1", "nats", "event.orders.new")
    assert (described["nats_subject"], described["attributes"]) == ("event.orders.new", {})


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"Nats-Scheduler": "mayfly.schedule.hello.t3", "Mayfly-Subject": "mayfly.due.hello"}, "mayfly.schedule"),
        ({"Nats-Scheduler": "mayfly.schedule.hello.A17", "Mayfly-Subject": "async.hello"}, "async.hello"),
    ],
)
async def test_tick_looks_like_a_late_call(node: Node, fields: dict[str, str], kind: str) -> None:
    """Both come by the server's scheduler; only one is a schedule's."""
    _, described = await shown(node, b"", fields)
    assert described["type"] == kind


def batch(*items: tuple[str, bytes, dict[str, str] | None, int]) -> dict[str, Any]:
    """Arguments of a call, as the router packs it."""
    packed = [
        (id_, "event.x", headers.block(fields) if fields else None, attempt, payload)
        for id_, payload, fields, attempt in items
    ]
    block = headers.block({"Mayfly-Batch": str(len(items))})
    return {"event": msgspec.msgpack.encode(packed), "headers": block}


THREE = batch(
    ("E1", b"1", None, 1), ("E2", b"2", {"Content-Type": "text/plain", "X-A": "a"}, 2), ("E3", b"\xff", None, 1)
)


@pytest.mark.parametrize("kind", ["def", "async def"])
async def test_batch_is_one_lump(node: Node, kind: str) -> None:
    """A list of events, each decoded by its own headers, and a list of what is told of each."""
    source = f"""
        {kind} handler(events, context):
            about = [[i.id, i.attempt, i.headers.get('X-A'), i.event.type] for i in context.batch]
            return [[str(e) for e in events], about]
    """
    instance = await node.start(source, **BATCH)
    events, about = (await instance.call(**THREE)).json
    assert events == ["1", "2", "b'\\xff'"]
    assert about == [["E1", 1, None, "event.x"], ["E2", 2, "a", "event.x"], ["E3", 1, None, "event.x"]]


async def test_plain_call_of_a_batch_function_is_no_list(node: Node) -> None:
    """One event is a list of one; an event that cannot be decoded is the caller's error, as always."""
    source = "def handler(events, context):\n    return [events, [i.id for i in context.batch]]\n"
    instance = await node.start(source, **BATCH)
    assert (await instance.call({"n": 1})).json == [[{"n": 1}], ["inv-1"]]
    assert (
        await instance.call(b"{", headers=headers.block({"Content-Type": "application/json"}))
    ).kind == "bad_request"


async def test_one_bad_event_fails_the_batch(node: Node, eventually: Eventually) -> None:
    """It is left out, logged and reported beside what the handler reports, by id or by place in its list."""
    source = """
        def handler(events, context):
            return {'seen': events, 'batchItemFailures': [{'itemIdentifier': 1}, {'itemIdentifier': 'E1'}]}
    """
    items = batch(("E1", b"1", None, 1), ("E2", b"{", {"Content-Type": "application/json"}, 1), ("E3", b"3", None, 1))
    instance = await node.start(source, **BATCH)
    answer = (await instance.call(**items)).json
    assert answer["seen"] == [1, 3]
    assert [failure["itemIdentifier"] for failure in answer["batchItemFailures"]] == ["E3", "E1", "E2"]
    await eventually(lambda: any("event E2" in line for _, _, line in instance.logs))


@pytest.mark.parametrize("returned", ["None", "'text'", "[1]", "{'ok': True}"])
async def test_undecodable_event_is_taken_for_done(node: Node, returned: str) -> None:
    """Whatever the handler returns; if there is nothing else, it is not called."""
    bad = ("E2", b"{", {"Content-Type": "application/json"}, 1)
    source = f"def handler(events, context):\n    assert events\n    return {returned}\n"
    instance = await node.start(source, **BATCH)
    for items in (batch(("E1", b"1", None, 1), bad), batch(bad)):
        assert (await instance.call(**items)).json["batchItemFailures"] == [{"itemIdentifier": "E2"}]


async def test_result_of_a_batch_is_changed(node: Node) -> None:
    """Without failures it goes as it is."""
    instance = await node.start("def handler(events, context):\n    return 'done'\n", **BATCH)
    assert (await instance.call(**THREE)).payload == b"done"


@pytest.mark.parametrize(
    "failures", ["[{'itemIdentifier': 'E9'}]", "[{'itemIdentifier': 3}]", "[{}]", "'E1'", "[None]"]
)
async def test_failure_that_names_no_event_is_lost(node: Node, failures: str) -> None:
    """Nobody knows what the handler meant: the whole batch has failed."""
    source = f"def handler(events, context):\n    return {{'batchItemFailures': {failures}}}\n"
    instance = await node.start(source, **BATCH)
    assert (await instance.call(**THREE)).kind == "bad_result"


@pytest.mark.parametrize(
    "payload", [b"\xc1", b"\x05", b"\x91\x01", b"\x91\x92\x01\x02", b"\x91\x95\x01\x02\x03\x04\x05"]
)
async def test_malformed_batch_ends_instance(node: Node, payload: bytes) -> None:
    """A caller may send the header, too: that call fails, the next works."""
    instance = await node.start("def handler(events, context):\n    return events\n", **BATCH)
    answer = await instance.call(payload, headers=headers.block({"Mayfly-Batch": "1"}))
    assert answer.kind == "bad_request"
    assert (await instance.call(1)).json == [1]


async def test_sibling_of_a_template_is_told_of_batches(node: Node, eventually: Eventually) -> None:
    """An instance that is forked from a template has its own START."""
    source = (
        "import time\ntime.sleep(0.05)\ndef handler(events, context):\n    return [len(events), len(context.batch)]\n"
    )
    code = node.write({"function.py": source})
    first: Instance = await node.start(code, **BATCH)
    await eventually(lambda: node.logged("template.ready"))
    sibling = await node.start(code, **BATCH)
    assert (await sibling.ready())["import"] == 0.0
    for instance in (first, sibling):
        assert json.loads((await instance.call(**THREE)).payload) == [3, 3]
