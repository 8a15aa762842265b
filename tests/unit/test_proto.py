"""What the contracts promise: readers and writers of different releases, bad bytes, names, owners, states."""

import contextlib
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mayfly_proto import api, codec, errors, headers, messages, names, ownership, records, states, storage, subjects
from tests.unit import proto_samples as samples

INVOKE = samples.MESSAGES[0]
unpack_invoke = codec.Unpacker(messages.Invoke)


@pytest.mark.parametrize("example", samples.MESSAGES, ids=lambda example: type(example).__name__)
def test_a_message_survives_the_wire(example: msgspec.Struct) -> None:
    """What is packed is unpacked, metadata and payload."""
    assert codec.Unpacker(type(example))(codec.pack(example, b"\x00payload\xff")) == (example, b"\x00payload\xff")


@pytest.mark.parametrize("example", [*samples.RECORDS, *samples.API], ids=lambda example: type(example).__name__)
def test_a_record_survives_the_wire(example: msgspec.Struct) -> None:
    """What is encoded is decoded."""
    assert records.decode(records.encode(example), type(example)) == example


@pytest.mark.parametrize("example", samples.MESSAGES, ids=lambda example: type(example).__name__)
def test_an_old_reader_takes_a_new_message(example: msgspec.Struct) -> None:
    """Fields added at the end of a message are ignored by those who do not know them."""
    newer = [*msgspec.msgpack.decode(codec.encode(example)), "added later"]
    assert msgspec.msgpack.decode(codec.encode(newer), type=type(example)) == example


def test_a_new_reader_takes_an_old_message() -> None:
    """Fields that the writer did not know have their defaults."""
    older = msgspec.msgpack.decode(codec.encode(INVOKE))[:8]
    assert msgspec.msgpack.decode(codec.encode(older), type=messages.Invoke).attempt == 1


def test_an_old_reader_takes_a_new_record() -> None:
    """Unknown fields of a record in a bucket are ignored."""
    assert records.decode(b'{"epoch":1,"instances":[],"slots":0,"new":true}', records.Route).epoch == 1


def test_a_misspelt_setting_of_a_request_is_an_error() -> None:
    """The management API names the field that it does not know, rather than deploy something else."""
    with pytest.raises(msgspec.ValidationError, match="nmae"):
        records.decode(b'{"name":"hello","nmae":"hullo"}', api.DeployRequest)


def test_people_write_memory_not_memory_mb() -> None:
    """A version's record has the words of the manifest."""
    spec = next(record for record in samples.RECORDS if isinstance(record, records.VersionSpec))
    written = json.loads(records.encode(spec))
    assert {"memory", "timeout", "keep_alive"} <= written.keys()
    assert not {"memory_mb", "timeout_s", "keep_alive_s"} & written.keys()


@pytest.mark.parametrize(
    "frame",
    [b"", b"\x01", b"\xff\xff\xff\xff", codec.pack(INVOKE)[:-1], b"\x00\x00\x00\x00", b"\x01\x00\x00\x00\xc1"],
    ids=["empty", "no length", "length beyond the end", "cut", "no metadata", "no msgpack"],
)
def test_bad_frames_are_refused(frame: bytes) -> None:
    """Bytes that are no frame raise one of the errors that readers catch."""
    with pytest.raises((msgspec.MsgspecError, ValueError)):
        unpack_invoke(frame)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_frame_or_an_error(frame: bytes) -> None:
    """No input makes a reader raise anything else."""
    with contextlib.suppress(msgspec.MsgspecError, ValueError):
        unpack_invoke(frame)


def test_the_instance_frame_says_its_lengths() -> None:
    """A reader of the byte stream knows from the head how much follows."""
    frame = codec.pack_instance(4, [7, 0, None], b"payload")
    kind, meta, payload = codec.INSTANCE_HEAD.unpack_from(frame)
    body = frame[codec.INSTANCE_HEAD.size :]
    assert kind == 4
    assert msgspec.msgpack.decode(body[:meta]) == [7, 0, None]
    assert body[meta:] == b"payload"
    assert len(body) == meta + payload


# headers


def test_a_header_is_found_without_parsing() -> None:
    """`find` gives the value of exactly that header; a name within another, or in a value, is not it."""
    raw = headers.block({"X-Mayfly-Start": "no", "Note": "Mayfly-Start: no", headers.START: "warm"})
    assert headers.find(raw, headers.START.encode()) == b"warm"
    assert headers.find(raw, b"Mayfly-Sta") is None
    assert headers.find(raw, b"Missing") is None


def test_header_values_cannot_smuggle_in_headers() -> None:
    """CR and LF in a value or a name become spaces."""
    raw = headers.block({"A": "1\r\nNats-Service-Error-Code: 500", "B\r\nC": "2"})
    assert raw.count(b"\r\n") == 4
    assert headers.find(raw, headers.SERVICE_ERROR_CODE.encode()) is None


def test_a_cut_header_block_is_no_crash() -> None:
    """A block without its end, as a broken client may send it, has what can be read of it."""
    assert headers.parse(b"NATS/1.0\r\nA: 1") == {"A": "1"}
    assert headers.find(b"NATS/1.0\r\nA: 1", b"A") == b"1"


def test_headers_survive_the_wire() -> None:
    """What `block` builds, `parse` reads."""
    fields = {headers.INVOCATION: "0K8M2Q", headers.HTTP: "GET /orders/7?x=1:2", "A": "ü"}
    assert headers.parse(headers.block(fields)) == fields
    assert headers.parse(None) == {}
    assert headers.parse(b"") == {}


def test_the_servers_status_is_told_from_headers() -> None:
    """``NATS/1.0 503`` is a status; a plain block has none."""
    assert headers.status(b"NATS/1.0 503\r\n\r\n") == "503"
    assert headers.status(b"NATS/1.0 408 Request Timeout\r\n\r\n") == "408"
    assert headers.status(headers.block({"A": "1"})) is None
    assert headers.status(None) is None


# errors


@pytest.mark.parametrize("error", samples.ERRORS, ids=lambda error: error.kind.value)
def test_an_error_survives_the_wire(error: errors.CallError) -> None:
    """Who calls gets the kind, the sentence, the traceback and the retry time that the service gave."""
    found = errors.from_reply(error.headers(), error.body())
    assert found is not None
    assert vars(found) == vars(error)
    assert str(found) == error.message


def test_a_result_is_no_error() -> None:
    """A reply without the error header is a result, whatever it holds."""
    assert errors.from_reply(None, b"{}") is None
    assert errors.from_reply(headers.block({headers.START: "warm"}), samples.ERRORS[0].body()) is None


@pytest.mark.parametrize(
    "body", [b"", b"busy", b"{}", b'{"error":{"code":429,"type":"new","message":"","component":""}}']
)
def test_an_error_of_somebody_else_keeps_its_code(body: bytes) -> None:
    """An error by another service or a newer release: its code tells the kind, its header the sentence."""
    raw = headers.block({headers.SERVICE_ERROR: "slow down", headers.SERVICE_ERROR_CODE: "429"})
    found = errors.from_reply(raw, body)
    assert found is not None
    assert (found.kind, found.message) == (errors.ErrorType.THROTTLED, "slow down")


def test_an_unknown_code_is_an_internal_error() -> None:
    """A code that Mayfly does not know is still an error."""
    found = errors.from_reply(headers.block({headers.SERVICE_ERROR_CODE: "799"}), b"")
    assert found is not None
    assert found.kind is errors.ErrorType.INTERNAL


def test_a_senseless_retry_time_is_no_crash() -> None:
    """A foreign Retry-After (HTTP allows a date) does not hide the error."""
    error = samples.ERRORS[0]
    found = errors.from_reply(error.headers({headers.RETRY_AFTER: "Fri, 31 Dec 1999 23:59:59 GMT"}), error.body())
    assert found is not None
    assert found.kind is error.kind


def test_every_kind_has_a_code() -> None:
    """No kind is without its code."""
    assert all(400 <= kind.code <= 508 for kind in errors.ErrorType)


def test_a_long_message_does_not_fill_the_header() -> None:
    """The header has the first 200 characters, the body has all."""
    error = errors.CallError(errors.ErrorType.BAD_REQUEST, "x" * 1000, component="registry")
    assert headers.parse(error.headers())[headers.SERVICE_ERROR] == "x" * 200
    assert json.loads(error.body())["error"]["message"] == "x" * 1000


# names and keys


@pytest.mark.parametrize("name", ["hello", "a", "billing.charge", "a.b.c.d", "x-1.y-2", "9", "a" * 63])
def test_good_names(name: str) -> None:
    """What a function may be called."""
    assert names.check_function(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "Hello",
        "a.b.c.d.e",
        ".a",
        "a.",
        "a..b",
        "a_b",
        "-a",
        "a-",
        "a b",
        "a\n",
        "a*",
        ">",
        "$KV",
        "é",
        "a" * 64,
        "a@1",
    ],
)
def test_bad_names(name: str) -> None:
    """A name that would be another subject, key or path is refused, and the message says the rule."""
    with pytest.raises(names.InvalidName, match="1 to 4 parts"):
        names.check_function(name)


@pytest.mark.parametrize("name", ["", "n.1", "N1", "n_1", "n1\n", "*"])
def test_bad_node_names(name: str) -> None:
    """A node's name is one token."""
    with pytest.raises(names.InvalidName):
        names.check_node(name)


@pytest.mark.parametrize(
    ("target", "parsed"), [("hello", ("hello", None)), ("a.b@3", ("a.b", 3)), ("hello@10", ("hello", 10))]
)
def test_targets(target: str, parsed: tuple[str, int | None]) -> None:
    """A call names a function, or one version of it."""
    assert names.parse_target(target) == parsed


@pytest.mark.parametrize("target", ["hello@", "hello@0", "hello@-1", "hello@x", "hello@1@2", "hello@²", "@1", "Hello"])
def test_bad_targets(target: str) -> None:
    """Anything else is refused."""
    with pytest.raises(names.InvalidName):
        names.parse_target(target)


@given(st.from_regex(names.FUNCTION, fullmatch=True), st.integers(1, 10**6), st.from_regex(names.NODE, fullmatch=True))
def test_keys_and_names_can_be_told_apart(function: str, version: int, node: str) -> None:
    """Any valid name makes a valid subject, and a route's key gives back what it was made of."""
    assert storage.parse_route_key(storage.route_key(node, version, function)) == (node, version, function)
    assert not set(subjects.call(function, version)) & set(" *>\t\r\n")
    assert names.parse_target(f"{function}@{version}") == (function, version)


# owners


@given(
    st.sets(st.from_regex(names.NODE, fullmatch=True), min_size=2, max_size=6),
    st.from_regex(names.FUNCTION, fullmatch=True),
)
def test_a_leaving_router_moves_only_its_own_functions(members: set[str], function: str) -> None:
    """When another router leaves, a function keeps its owner; the order of members does not matter."""
    owner = ownership.owner(function, sorted(members))
    assert owner in members
    assert ownership.owner(function, sorted(members, reverse=True)) == owner
    for leaving in members - {owner}:
        assert ownership.owner(function, members - {leaving}) == owner


def test_no_routers_no_owner() -> None:
    """Before the first router there is no owner."""
    assert ownership.owner("hello", []) is None


def test_functions_are_shared_out_evenly() -> None:
    """Of three routers each has about a third."""
    owners = [ownership.owner(f"function-{n}", ["r1", "r2", "r3"]) for n in range(3000)]
    assert all(850 < owners.count(router) < 1150 for router in ("r1", "r2", "r3"))


# states


def test_an_illegal_move_names_state_and_event() -> None:
    """A bug shows as what it is."""
    with pytest.raises(states.IllegalMove, match="instance is stopped: take"):
        states.move(states.Instance.STOPPED, states.Event.TAKE)


def test_every_life_ends() -> None:
    """From each state an instance can come to an end, and an end is final."""
    ends = {states.Instance.STOPPED, states.Instance.FAILED}
    assert {state for state, moves in states.INSTANCE.items() if not moves} == ends
    for state in set(states.Instance) - ends:
        assert states.move(state, states.Event.DIE) is states.Instance.FAILED
        drained = states.move(state, states.Event.DRAIN)
        assert states.move(drained, states.Event.GONE) is states.Instance.STOPPED
