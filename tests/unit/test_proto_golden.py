"""Golden files: what each message looks like on the wire. A change of a contract shows as a change of these files.

After an intended change: ``MAYFLY_WRITE_GOLDEN=1 pytest tests/unit/test_proto_golden.py``, and read the difference.
"""

import inspect
import json
import os
from pathlib import Path
from types import ModuleType

import msgspec
import pytest

from mayfly_proto import api, codec, errors, headers, messages, ownership, records, states, storage, subjects
from tests.unit import proto_samples as samples

FOLDER = Path(__file__).parents[1] / "golden"


def check(name: str, found: object) -> None:
    text = json.dumps(found, indent=1, ensure_ascii=False) + "\n"
    file = FOLDER / f"{name}.json"
    if os.environ.get("MAYFLY_WRITE_GOLDEN"):
        FOLDER.mkdir(exist_ok=True)
        file.write_text(text)
    assert text == file.read_text(), f"{file.name}: the wire format has changed"


def _structs(module: ModuleType) -> set[type[msgspec.Struct]]:
    """The concrete ones: a module's bases begin with an underscore."""
    return {
        found
        for name, found in inspect.getmembers(module, inspect.isclass)
        if issubclass(found, msgspec.Struct) and found.__module__ == module.__name__ and not name.startswith("_")
    }


@pytest.mark.parametrize(
    ("module", "examples"), [(messages, samples.MESSAGES), (records, samples.RECORDS), (api, samples.API)]
)
def test_there_is_an_example_of_everything(module: ModuleType, examples: list[msgspec.Struct]) -> None:
    """No message is without an example, and no field of an example has its default: each shows on the wire."""
    assert {type(example) for example in examples} == _structs(module)
    for example in examples:
        if isinstance(example, api.FunctionDescription):  # what it shares with VersionSpec is shown there
            continue
        for field in msgspec.structs.fields(example):
            assert getattr(example, field.name) != field.default, f"{type(example).__name__}.{field.name}"


def test_messages() -> None:
    """Between services: msgpack arrays, in hexadecimal, with what they hold."""
    check(
        "messages",
        {
            type(example).__name__: {
                "holds": msgspec.msgpack.decode(codec.encode(example)),
                "bytes": codec.encode(example).hex(),
            }
            for example in samples.MESSAGES
        },
    )


@pytest.mark.parametrize(("name", "examples"), [("records", samples.RECORDS), ("api", samples.API)])
def test_json(name: str, examples: list[msgspec.Struct]) -> None:
    """For people: JSON in KV buckets, streams and the management API."""
    check(name, {type(example).__name__: json.loads(records.encode(example)) for example in examples})


def test_errors() -> None:
    """Every kind of error: header block and body, as a caller in any language gets them."""
    check(
        "errors",
        {
            error.kind.value: {"headers": error.headers().decode(), "body": json.loads(error.body())}
            for error in samples.ERRORS
        },
    )


def test_frames() -> None:
    """Metadata and payload in one frame, and the longer head of the instance socket."""
    invoke = samples.MESSAGES[0]
    check(
        "frames",
        {
            "message": codec.pack(invoke, b'{"name":"Ada"}').hex(),
            "message without payload": codec.pack(invoke).hex(),
            "instance": codec.pack_instance(4, [7, 0, None], b'"Hello"').hex(),
            "instance without payload": codec.pack_instance(2, {"import": 1.5}).hex(),
        },
    )


def test_headers() -> None:
    """Names of headers, and a block of them."""
    names = {name: value for name, value in vars(headers).items() if name.isupper() and isinstance(value, str)}
    check(
        "headers",
        {"names": names, "block": headers.block({headers.INVOCATION: "0K8M2Q", headers.START: "cold"}).decode()},
    )


def test_subjects() -> None:
    """Every subject, with the example's values in it."""
    values = {
        "function": "billing.charge",
        "version": 2,
        "node": "n1",
        "router": "r1",
        "resource": "function",
        "verb": "deploy",
        "instance": "i1",
        "bucket": "routes",
        "key": "n1.2.billing.charge",
        "nuid": "NUID",
        "encoded_name": "TkFNRQ==",
        "stream": "KV_routes",
        "subject": "$KV.routes.n1.2.billing.charge",
        "name": "registry",
        "identity": "ID",
        "role": "gateway",
        "account": "MAYFLY",
        "consumer": "billing_charge_1",
        "ack": "EVENTS.billing_charge_1.1.17.17.1700000000000000000.0",
        "invocation": "A17",
    }
    functions = {
        f"{name}({', '.join(parameters)})": function(**{parameter: values[parameter] for parameter in parameters})
        for name, function in inspect.getmembers(subjects, inspect.isfunction)
        for parameters in [list(inspect.signature(function).parameters)]
    }
    constants = {name: value for name, value in vars(subjects).items() if name.isupper() and isinstance(value, str)}
    check("subjects", {"constants": constants, "functions": functions})


def test_storage() -> None:
    """Names of buckets, object stores and streams; keys."""
    check(
        "storage",
        {
            "buckets": storage.BUCKETS,
            "object stores": storage.OBJECT_STORES,
            "streams": storage.STREAMS,
            "version_key": storage.version_key("billing.charge", 2),
            "route_key": storage.route_key("n1", 2, "billing.charge"),
            "members": storage.ROUTER_MEMBERS_KEY,
            "event_consumer": storage.event_consumer("billing.charge", 2),
            "call_consumer": storage.call_consumer("billing.charge"),
            "invocation_ids": [storage.invocation_id(stream, 17) for stream in (*storage.ID_LETTERS, "ORDERS")],
        },
    )


def test_states() -> None:
    """The life of an instance, and the words by which services name its states."""
    table = {
        state.value: {event.value: after.value for event, after in moves.items()}
        for state, moves in states.INSTANCE.items()
    }
    names = {"invocation": states.Invocation, "node": states.Node}
    check("states", table | {name: [state.value for state in kind] for name, kind in names.items()})


def test_owners() -> None:
    """All routers, of whatever release, agree who owns a function."""
    members = ["r1", "r2", "r3"]
    functions = ["hello", "billing.charge", "a.b.c.d", "resize-image"]
    check("owners", {function: ownership.owner(function, members) for function in functions})


def test_codes() -> None:
    """Each kind of error has the one code that HTTP also knows."""
    check("codes", {kind.value: kind.code for kind in errors.ErrorType})
