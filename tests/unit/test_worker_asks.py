"""What an instance may ask, and what goes with what it publishes: decided without NATS."""

from typing import Any

import msgspec
import pytest

from mayfly_chassis import errors as bus_errors
from mayfly_proto import headers
from mayfly_proto.errors import CallError, ErrorType
from mayfly_proto.records import Package, VersionSpec
from mayfly_worker import answers, asks, origin, permits
from mayfly_worker.instance_frames import Broken

LIMIT = 1000


def spec(**lists: Any) -> VersionSpec:
    package = Package(sha256="0", size=0, format="py", filename="f.py")
    return VersionSpec(name="f", version=1, runtime="python", handler="f:f", package=package, created="", **lists)


def objection(allowed: VersionSpec, ask: asks.Ask, size: int = 0) -> str:
    error = permits.objection(allowed, ask, size, LIMIT)
    return "" if error is None else f"{error.kind.value}: {error.message}"


@pytest.mark.parametrize(
    ("pattern", "subject", "allowed"),
    [
        ("event.>", "event.a.b", True),
        ("event.*", "event.a.b", False),
        ("alerts.x", "alerts.x", True),
        ("alerts.x", "alerts.y", False),
        (">", "mayfly.settle.f.x", False),
        (">", "$KV.routes.x", False),
        (">", "_INBOX.x", False),
        (">", "fn.other", False),
        (">", "async.other", False),
        (">", "event.a", True),
    ],
)
def test_publish_follows_the_manifest_and_never_the_platforms_subjects(
    pattern: str, subject: str, allowed: bool
) -> None:
    """A list that says everything still opens nothing that is the platform's or NATS's."""
    said = objection(spec(publish=[pattern]), asks.Publish(subject, {}, None))
    assert said == ("" if allowed else f"forbidden: publish in the manifest does not cover {subject}")


@pytest.mark.parametrize(
    "subject", ["", "a b", "event.*", "event.>", "event..x", ".event", "event.x\r\nPUB y", "event.\0"]
)
def test_subject_that_is_none_is_refused(subject: str) -> None:
    """Wildcards, gaps and line breaks."""
    assert objection(spec(publish=[">", "event.>"]), asks.Publish(subject, {}, None)).startswith("bad_request")


@pytest.mark.parametrize(
    ("pattern", "function", "allowed"),
    [("*", "pay", True), ("*", "billing.pay", False), ("billing.>", "billing.pay@3", True), ("pay", "pays", False)],
)
def test_call_follows_the_manifest(pattern: str, function: str, allowed: bool) -> None:
    """Patterns match names, whatever the version."""
    assert (objection(spec(call=[pattern]), asks.Call(function, {}, None)) == "") is allowed


@pytest.mark.parametrize("function", ["", "a b", "Pay", "pay@0", "pay@x", "a.>"])
def test_function_name_that_is_none_is_refused(function: str) -> None:
    """It becomes part of a subject."""
    assert objection(spec(call=[">"]), asks.Call(function, {}, None)).startswith("bad_request")


def test_platforms_buckets_stay_closed() -> None:
    """Even to a manifest that names them."""
    both = spec(kv=["routes", "carts"], objects=["code", "uploads"])
    assert objection(both, asks.KvGet("carts", "k")) == objection(both, asks.ObjectInfo("uploads", "n")) == ""
    assert objection(both, asks.KvGet("routes", "k")) == "forbidden: kv in the manifest does not name routes"
    assert objection(both, asks.ObjectInfo("code", "n")) == "forbidden: objects in the manifest does not name code"


def test_payload_above_the_limit_is_refused() -> None:
    """Exactly the limit passes."""
    ask = asks.Publish("event.a", {}, None)
    assert objection(spec(publish=["event.>"]), ask, LIMIT) == ""
    assert objection(spec(publish=["event.>"]), ask, LIMIT + 1).startswith("too_large")


@pytest.mark.parametrize("nuid", ["", "a.b", "*", ">", "x" * 65])
def test_chunks_id_cannot_reach_further(nuid: str) -> None:
    """It becomes part of a subject."""
    assert objection(spec(objects=["uploads"]), asks.ObjectDiscard("uploads", nuid)).startswith("bad_request")


@pytest.mark.parametrize(
    ("verb", "arguments"),
    [
        ("nothing", []),
        ("kv.get", ["b"]),
        ("kv.get", ["b", "k", 1]),
        ("kv.put", ["b", "k", "soon"]),
        ("publish", ["s", None, None]),
        ("call", "other"),
    ],
)
def test_ask_outside_the_contract_is_broken(verb: str, arguments: Any) -> None:
    """Neither a verb nor an argument is guessed."""
    with pytest.raises((Broken, msgspec.MsgspecError)):
        asks.parse(verb, msgspec.msgpack.encode(arguments))


def test_what_is_passed_on_cannot_be_forged() -> None:
    """Attributes of the event but for one's own, whatever their case; the way it came is the platform's word."""
    raw = headers.block(
        {"ce-id": "1", "CE-Type": "theirs", "X-Secret": "s", "Mayfly-Depth": "3", "Mayfly-Source": "E1"}
    )
    assert origin.passed_on({"ce-type": "mine", "X-Own": "1"}, raw, "E2", "f") == {
        "ce-id": "1",
        "ce-type": "mine",
        "X-Own": "1",
        "Mayfly-Depth": "4",
        "Mayfly-Source": "E2",
        "Mayfly-Source-Function": "f",
    }


@pytest.mark.parametrize(("depth", "passed"), [("0", True), ("7", True), ("8", False), ("9" * 5000, False)])
def test_depth_at_the_limit_is_a_loop(depth: str, passed: bool) -> None:
    """The last function in a chain may not go on."""
    raw = headers.block({"Mayfly-Depth": depth})
    if passed:
        assert origin.passed_on({}, raw, "E1", "f")["Mayfly-Depth"] == str(int(depth) + 1)
        return
    with pytest.raises(CallError) as caught:
        origin.passed_on({}, raw, "E1", "f")
    assert caught.value.kind is ErrorType.LOOP


@pytest.mark.parametrize("depth", ["-3", "x", ""])
def test_odd_depth_counts_as_none(depth: str) -> None:
    """A publisher's header is only a header."""
    assert origin.passed_on({}, headers.block({"Mayfly-Depth": depth}), "E1", "f")["Mayfly-Depth"] == "1"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (TimeoutError(), "deadline_exceeded"),
        (bus_errors.KeyExists("x"), "conflict"),
        (bus_errors.WrongRevision("x"), "conflict"),
        (bus_errors.ObjectNotFound("x"), "not_found"),
        (bus_errors.TooMany("x"), "too_large"),
        (bus_errors.MessageTooLarge("x"), "too_large"),
        (bus_errors.NoResponders("x"), "unavailable"),
        (bus_errors.JetStreamError("maximum bytes exceeded"), "unavailable"),
        (bus_errors.BusClosed("x"), "unavailable"),
    ],
)
def test_every_failure_has_a_kind(error: Exception, kind: str) -> None:
    """What a handler can tell apart."""
    assert answers.failed(error).kind.value == kind
