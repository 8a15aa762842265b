"""Results of durable calls and dead letters by HTTP, with the real registry; a router is played over the wire."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from mayfly_broker.server import EmbeddedServer
from mayfly_chassis import outcomes
from mayfly_proto import api, headers
from tests.conftest import Connect
from tests.integration.durable_peers import Router, gateway_and_registry
from tests.integration.gateway import Gateway


@pytest.fixture
async def router(connect: Connect) -> Router:
    return Router(await connect("router"))


@pytest.fixture
async def http(server: EmbeddedServer, tmp_path: Path, connect: Connect) -> AsyncIterator[Gateway]:
    async with gateway_and_registry(server, tmp_path, connect) as running_gateway:
        yield running_gateway


@pytest.mark.parametrize(
    ("kind", "payload", "shown"),
    [
        ("application/json", b'{"n": 1.50}', {"result": {"n": 1.5}}),
        ("application/json", b"null", {"result": None}),
        ("text/plain", b'"quoted"', {"result": '"quoted"'}),
        ("application/octet-stream", b"\xff\x00", {"result": "/wA=", "encoding": "base64"}),
        ("application/json", b"{broken", {"result": "e2Jyb2tlbg==", "encoding": "base64"}),
    ],
)
async def test_a_result_is_shown_decoded(
    http: Gateway, router: Router, kind: str, payload: bytes, shown: dict[str, Any]
) -> None:
    """JSON is JSON in the record, text is text, anything else is base64 and says so."""
    accepted = await http.send("POST", "/async-function/hello")
    path = (accepted.header("Location") or "").removeprefix("/api/v1/")
    assert (await http.manage("GET", path)).json["state"] == "pending"
    await router.says("A1", "succeeded", payload, **{headers.CONTENT_TYPE: kind})
    found = (await http.manage("GET", path)).json
    assert (found["id"], found["function"], found["state"], found["attempts"]) == ("A1", "hello", "succeeded", 1)
    assert {name: found.get(name) for name in shown} == shown
    assert found["content_type"] == kind


async def test_a_failure_is_shown_with_its_error(http: Gateway, router: Router) -> None:
    """State, attempts, and the error as a caller would have had it."""
    await router.failed("A1")
    found = (await http.manage("GET", "invocations/A1")).json
    assert (found["state"], found["attempts"]) == ("failed", 3)
    assert (found["error"]["type"], found["error"]["traceback"]) == ("function_error", "Tr...")
    assert "result" not in found


async def test_a_large_result_comes_whole(http: Gateway, router: Router) -> None:
    """Also one that base64 would make larger than a message may be."""
    payload = b"x" * 7_000_000
    await router.says("A1", "succeeded", payload, **{headers.CONTENT_TYPE: "text/plain"})
    assert (await http.manage("GET", "invocations/A1")).json["result"] == payload.decode()


async def test_who_waits_gets_the_result(http: Gateway, router: Router) -> None:
    """Whether it comes before the gateway listens, or while it does."""
    for identity in ("A1", "A2", "A3"):
        await http.send("POST", "/async-function/hello")
        waiting = asyncio.create_task(http.manage("GET", f"invocations/{identity}?wait=15"))
        await router.says(identity, "succeeded", b"1")
        assert (await waiting).json["result"] == 1


async def test_who_waits_hears_at_once(router: Router, connect: Connect) -> None:
    """The word comes by subscription: nobody has to ask again for it, and what is not the last word is no end."""
    bus = await connect("gateway")
    asked = 0

    async def ask() -> api.Invocation:
        nonlocal asked
        asked += 1
        await router.says("A1", "retrying")
        await router.says("A1", "succeeded", b"1")
        return api.Invocation(id="A1", function="hello", state="pending", time="")

    known = await outcomes.wait(bus, "A1", ask, 15)
    assert (known.state, known.payload, asked) == ("succeeded", b"1", 1)


async def test_waiting_ends_in_time(http: Gateway) -> None:
    """When it is over the last known state is the answer; more than the limit is refused."""
    await http.send("POST", "/async-function/hello")
    answer = await http.manage("GET", "invocations/A1?wait=0.2")
    assert (answer.status, answer.json["state"]) == (200, "pending")
    for wrong in ("-1", "601", "soon"):
        assert (await http.manage("GET", f"invocations/A1?wait={wrong}")).status == 400


@pytest.mark.parametrize(("identity", "status"), [("A99", 404), ("E1", 404), ("nonsense", 400), ("A1.x", 400)])
async def test_an_unknown_id_is_not_waited_for(http: Gateway, identity: str, status: int) -> None:
    """At once: nothing is known of it, or it is no id."""
    async with asyncio.timeout(5):
        assert (await http.manage("GET", f"invocations/{identity}?wait=60")).status == status


async def test_cancel_in_both_forms(http: Gateway, router: Router) -> None:
    """By the API and by OpenFaaS's path, with the token; the owner's no is 409 with its reason."""
    await router.answers_cancel({"cancelled": False, "reason": "it runs"}, {"cancelled": True})
    await http.send("POST", "/async-function/hello")
    assert (await http.send("DELETE", "/async-function/A1")).status == 401
    assert (await http.send("DELETE", "/api/v1/invocations/A1")).status == 401
    refused = await http.manage("DELETE", "invocations/A1")
    assert (refused.status, refused.error["type"], "it runs" in refused.error["message"]) == (409, "conflict", True)
    fields = {"Authorization": "Bearer t0ken-of-the-tests"}
    cancelled = await http.send("DELETE", "/async-function/A1", fields=fields)
    assert (cancelled.status, cancelled.json["state"]) == (200, "cancelled")


async def test_dead_letters_by_http(http: Gateway, router: Router) -> None:
    """Page, look into one, drive one again, purge one, drive the rest."""
    first = await router.buries("hello", b'{"n":1}', "application/json")
    for _ in range(4):
        await router.buries("hello", b"text", "text/plain")
    await router.buries("gone", b"\xff", "")
    rows = (await http.manage("GET", "dlq?function=hello&limit=2")).json
    assert [row["sequence"] for row in rows] == [5, 4]
    rows = (await http.manage("GET", "dlq?before=4")).json
    assert [(row["sequence"], row["reason"]) for row in rows] == [(3, "raised"), (2, "raised"), (1, "raised")]
    one = (await http.manage("GET", f"dlq/{first}")).json
    assert (one["payload"], one["headers"]) == ({"n": 1}, {"Content-Type": "application/json"})
    assert (await http.manage("GET", "dlq/2")).json["payload"] == "text"
    binary = (await http.manage("GET", "dlq/6")).json
    assert (binary["payload"], binary["encoding"]) == ("/w==", "base64")
    assert (await http.manage("GET", "dlq/99")).status == 404
    assert (await http.manage("POST", "dlq/hello/redrive", {"sequences": [first]})).json["count"] == 1
    assert (await http.manage("DELETE", "dlq/hello?sequence=2&sequence=3")).json["count"] == 2
    assert (await http.manage("POST", "dlq/hello/redrive")).json == {"function": "hello", "count": 2, "left": 0}
    assert (await http.manage("POST", "dlq/gone/redrive")).status == 404
    assert (await http.manage("DELETE", "dlq/gone")).json["count"] == 1
    assert (await http.manage("GET", "dlq")).json == []
