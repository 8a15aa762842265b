"""Calls by HTTP: from a socket to a function's subject and back, against a real NATS server."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mayfly_broker.server import EmbeddedServer
from mayfly_proto import headers
from mayfly_proto.errors import CallError, ErrorType
from mayfly_proto.records import Trigger
from tests.conftest import Connect
from tests.integration.gateway import Call, Gateway, Platform, echo, gateway, result


@pytest.fixture
async def platform(connect: Connect) -> Platform:
    return Platform(await connect("registry"), await connect("router"))


@pytest.fixture
async def http(server: EmbeddedServer, tmp_path: Path) -> AsyncIterator[Gateway]:
    async with gateway(server, tmp_path) as running:
        yield running


async def test_body_is_the_event_and_the_result_the_body(http: Gateway, platform: Platform) -> None:
    """``curl -d`` reaches the function as it is, and its result comes back with who ran it."""
    await platform.publish("billing.charge")
    await platform.serve("billing.charge", echo)
    answer = await http.send("POST", "/function/billing.charge/more/path?x=%20y", b'{"n": 1}', {"Content-Type": "a/b"})
    assert (answer.status, answer.body) == (200, b'{"n": 1}')
    assert answer.header("Mayfly-Invocation") == "i1"
    assert answer.header("Content-Type") == "application/json"
    (call,) = platform.calls
    assert call.headers[headers.HTTP] == "POST /function/billing.charge/more/path?x=%20y"
    assert call.headers[headers.CONTENT_TYPE] == "a/b"


async def test_a_version_is_called_by_number(http: Gateway, platform: Platform) -> None:
    """``hello@1`` goes to that version's subject; one that cannot be called is 404."""
    await platform.publish("hello", 2)
    await platform.publish("hello", 2)
    await platform.serve("hello", echo, version=2)
    assert (await http.send("POST", "/function/hello@2", b"x")).body == b"x"
    assert [call.subject for call in platform.calls] == ["fn.hello@2"]
    for unknown in ("hello@3", "hello@0", "hello@02", "hello@latest"):
        answer = await http.send("GET", f"/function/{unknown}")
        assert (answer.status, answer.error["type"]) == (404, "not_found"), unknown


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"])
async def test_any_method(http: Gateway, platform: Platform, method: str) -> None:
    """A function gets whatever method; a HEAD's answer has headers only."""
    await platform.publish("hello")
    await platform.serve("hello", lambda _: (result(), b"four"))
    answer = await http.send(method, "/function/hello")
    assert (answer.status, answer.header("Content-Length")) == (200, "4")
    assert answer.body == (b"" if method == "HEAD" else b"four")
    assert platform.calls[0].headers[headers.HTTP].startswith(f"{method} ")


async def test_handler_answers_as_http(http: Gateway, platform: Platform) -> None:
    """Status, repeated headers, and no body where there must be none; the connection stays usable."""
    await platform.publish("hello")

    def handler(call: Call) -> tuple[bytes, bytes]:
        status = call.payload.decode()
        block = result(**{headers.HTTP_STATUS: status, "Set-Cookie": "a=1"})
        return block.replace(b"Set-Cookie: a=1\r\n", b"Set-Cookie: a=1\r\nSet-Cookie: b=2\r\n"), b"body"

    await platform.serve("hello", handler)
    answer = await http.send("POST", "/function/hello", b"201")
    assert (answer.status, answer.body) == (201, b"body")
    assert [value for name, value in answer.headers if name.lower() == "set-cookie"] == ["a=1", "b=2"]
    post = b"POST /function/hello HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n"
    got = await http.raw(post + b"\r\n204" + post + b"\r\n304" + post + b"Connection: close\r\n\r\n200")
    assert [part[:3] for part in got.split(b"HTTP/1.1 ")[1:]] == [b"204", b"304", b"200"]
    assert got.count(b"body") == 1


async def test_unknown_function_is_404_and_never_a_subject(http: Gateway, platform: Platform) -> None:
    """Neither a wildcard nor a line break in a path reaches NATS."""
    await platform.publish("hello")
    await platform.serve("hello", echo)
    for path in ("nothing", "*", "%3E", "hello.%3E", "hel%0d%0alo", "hello%20x", "", "Hello", "x" * 5000):
        answer = await http.send("GET", f"/function/{path}")
        assert (answer.status, answer.error["code"], answer.error["component"]) == (404, 404, "gateway"), path
    assert platform.calls == []


async def test_errors_come_as_they_are(http: Gateway, platform: Platform) -> None:
    """Code, JSON body and Retry-After of the platform's error are those of the HTTP answer."""
    await platform.publish("hello")
    error = CallError(ErrorType.THROTTLED, "queue is full", component="router", invocation="i7", retry_after_s=3)
    await platform.serve("hello", lambda _: (error.headers(), error.body()))
    answer = await http.send("POST", "/function/hello")
    assert (answer.status, answer.header("Retry-After"), answer.header("Mayfly-Invocation")) == (429, "3", "i7")
    assert answer.body == error.body()


async def test_call_right_after_a_deploy_is_found(http: Gateway, platform: Platform) -> None:
    """The mirror may be behind; a name that it does not know is looked up before it is called unknown."""
    for number in range(50):
        name = f"fresh-{number}"
        await platform.serve(name, echo)
        await platform.publish(name)
        assert (await http.send("POST", f"/function/{name}", b"x")).status == 200


async def test_call_waits_while_its_owner_moves(http: Gateway, platform: Platform) -> None:
    """No responders for a function that exists is not an error yet: the call is made when there is an owner."""
    await platform.publish("hello")
    call = asyncio.create_task(http.send("POST", "/function/hello", b"x"))
    done, _ = await asyncio.wait({call}, timeout=0.3)
    assert not done
    await platform.serve("hello", echo)
    assert (await call).body == b"x"
    assert len(platform.calls) == 1


async def test_no_owner_until_the_deadline_is_503(http: Gateway, platform: Platform) -> None:
    """The caller's limit ends the waiting, and the error says that nobody serves the function."""
    await platform.publish("hello")
    answer = await http.send("POST", "/function/hello", b"x", {"Mayfly-Timeout-Ms": "200"})
    assert (answer.status, answer.error["type"], answer.header("Retry-After")) == (503, "unavailable", "1")


async def test_function_deleted_while_its_call_waits_is_404(http: Gateway, platform: Platform) -> None:
    """A call that waits for an owner learns that there will be none."""
    await platform.publish("hello")
    call = asyncio.create_task(http.send("POST", "/function/hello", b"x"))
    await asyncio.wait({call}, timeout=0.1)
    await platform.remove("hello")
    assert (await call).status == 404


async def test_lost_answer_ends_at_the_deadline(http: Gateway, platform: Platform, connect: Connect) -> None:
    """A reply that never comes is an error soon after the caller's own limit, never a hanging connection."""
    await platform.publish("hello")
    silent = await connect("router")
    await silent.subscribe("fn.hello", lambda *_: None, queue="router")
    await silent.flush()
    started = asyncio.get_running_loop().time()
    answer = await http.send("POST", "/function/hello", b"x", {"Mayfly-Timeout-Ms": "100"})
    assert (answer.status, answer.error["type"]) == (408, "deadline_exceeded")
    assert asyncio.get_running_loop().time() - started < 4


async def test_caller_limit_reaches_the_router_by_its_exact_name(http: Gateway, platform: Platform) -> None:
    """HTTP clients write headers in any case; the router looks for one spelling."""
    await platform.publish("hello")
    await platform.serve("hello", echo)
    await http.send("POST", "/function/hello", b"x", {"mayfly-TIMEOUT-ms": "700"})
    assert platform.calls[0].headers[headers.TIMEOUT_MS] == "700"
    answer = await http.send("POST", "/function/hello", b"x", {"Mayfly-Timeout-Ms": "soon"})
    assert (answer.status, answer.error["type"]) == (400, "bad_request")


async def test_payload_up_to_the_limit_and_not_a_byte_more(http: Gateway, platform: Platform) -> None:
    """Exactly the limit passes; one byte more is 413, whether the client says so beforehand or not."""
    await platform.publish("hello")
    await platform.serve("hello", lambda call: (result(), b"%d" % len(call.payload)))
    limit = http.chassis.bus.payload_limit
    assert (await http.send("POST", "/function/hello", bytes(limit))).body == b"%d" % limit
    assert (await http.send("POST", "/function/hello", bytes(limit + 1))).status == 413
    chunked = iter([bytes(limit), b"x"])
    answer = await http.send("POST", "/function/hello", chunked)
    assert (answer.status, answer.error["type"]) == (413, "too_large")
    assert http.chassis.bus.connected
    assert len(platform.calls) == 1


async def test_too_large_is_said_before_the_body_is_sent(http: Gateway, platform: Platform) -> None:
    """A client that asks first (Expect: 100-continue) is not made to send what will be refused."""
    await platform.publish("hello")
    head = b"POST /function/hello HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\nExpect: 100-continue\r\n"
    got = await http.raw(head + b"Connection: close\r\n\r\n")
    assert got.startswith(b"HTTP/1.1 413")


async def test_large_headers_are_refused_and_nats_stays_connected(http: Gateway, platform: Platform) -> None:
    """Headers count against max_payload; a frame above it would end the gateway's connection for good."""
    await platform.publish("hello")
    await platform.serve("hello", echo)
    fields = {f"X-{number}": "y" * 8000 for number in range(5)}
    assert (await http.send("POST", "/function/hello", b"x", fields)).status == 413
    limit = http.chassis.bus.payload_limit
    assert (await http.send("POST", "/function/hello", bytes(limit), {"X": "y" * 30_000})).status == 200
    assert http.chassis.bus.reconnects == 0


@pytest.mark.parametrize(
    "attack",
    [
        b"X: a\r\n Mayfly-Http-Status: 500\r\n",  # folded
        b"X: a\nMayfly-Probe: 1\r\n",
        b"X: a\rMayfly-Probe: 1\r\n",
        b"X: a\0b\r\n",
        b"X\r\nMayfly-Probe: 1\r\n",
        b"mayfly-probe: 1\r\nMAYFLY-HTTP: GET /forged\r\nNats-Service-Error-Code: 500\r\n",
        b"Nats-Msg-Id: 1\r\nnats-expected-stream: KV\r\n",
    ],
)
async def test_no_header_of_a_caller_steers_the_platform(http: Gateway, platform: Platform, attack: bytes) -> None:
    """However it is written, it is refused, or it reaches the function as nothing that Mayfly or NATS would heed."""
    await platform.publish("hello")
    await platform.serve("hello", echo)
    got = await http.raw(b"GET /function/hello HTTP/1.1\r\nHost: x\r\n" + attack + b"Connection: close\r\n\r\n")
    assert got[9:12] in (b"200", b"400")
    for call in platform.calls:
        names = {name.lower() for name in call.headers}
        assert {name for name in names if name.startswith(("mayfly-", "nats-"))} == {headers.HTTP.lower()}
        assert call.headers[headers.HTTP] == "GET /function/hello"
        assert b"\0" not in call.raw


@pytest.mark.parametrize(
    "target", [b"/function/hello\tx", b"/function/hello?\xff\xfe", b"http://evil/function/hello", b"*", b"hello", b"//"]
)
async def test_no_request_line_breaks_anything(http: Gateway, platform: Platform, target: bytes) -> None:
    """Odd targets are answered, and the gateway goes on."""
    await platform.publish("hello")
    await platform.serve("hello", echo)
    got = await http.raw(b"OPTIONS " + target + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert got[9:12] in (b"200", b"400", b"404")
    assert (await http.send("POST", "/function/hello", b"x")).status == 200


async def test_smuggled_lengths_are_refused(http: Gateway, platform: Platform) -> None:
    """Two lengths, or a length and chunks, would be read differently by a proxy in front."""
    await platform.publish("hello")
    await platform.serve("hello", echo)
    post = b"POST /function/hello HTTP/1.1\r\nHost: x\r\n"
    length = b"Content-Length: 5\r\n"
    for fields in (length + b"Content-Length: 6\r\n", length + b"Transfer-Encoding: chunked\r\n"):
        got = await http.raw(post + fields + b"\r\n0\r\n\r\nGET /function/hello HTTP/1.1\r\nHost: x\r\n\r\n")
        assert got.startswith(b"HTTP/1.1 400"), got
    assert platform.calls == []


async def test_client_that_leaves_disturbs_nobody(http: Gateway, platform: Platform) -> None:
    """A client that goes while it sends, or while its function runs, leaves nothing behind."""
    await platform.publish("hello")
    await platform.serve("hello", echo)
    async with http.connected() as (_, writer):
        writer.write(b"POST /function/hello HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf")
        await writer.drain()
    assert (await http.send("POST", "/function/hello", b"x")).status == 200
    assert len(platform.calls) == 1


async def test_triggers_follow_deploys(http: Gateway, platform: Platform, connect: Connect) -> None:
    """A path template leads to its function with parameters; other methods are 405 with Allow, other paths 404."""
    await platform.serve("orders", echo)
    assert (await http.send("GET", "/orders/7")).status == 404
    await platform.publish("orders", triggers=(Trigger(http="/orders/{id}", methods=["GET", "PUT"]),))
    async with asyncio.timeout(5):
        while (await http.send("GET", "/orders/7%2F8?x=1")).status == 404:
            await asyncio.sleep(0.01)
    call = platform.calls[-1]
    assert call.headers[headers.HTTP] == "GET /orders/7%2F8?x=1"
    assert call.headers[headers.HTTP_ROUTE] == "id=7%2F8"
    refused = await http.send("POST", "/orders/7")
    assert (refused.status, refused.header("Allow")) == (405, "GET, HEAD, PUT")
    assert refused.error["type"] == "method_not_allowed"
    assert (await http.send("GET", "/orders")).error["type"] == "not_found"


async def test_reserved_paths_are_never_a_function(http: Gateway, platform: Platform) -> None:
    """Even a record that claims them does not get the platform's own paths."""
    await platform.publish("evil", triggers=(Trigger(http="/{any}"), Trigger(http="/metrics")))
    await platform.serve("evil", echo)
    for path in ("/metrics", "/event", "/async-function", "/healthz/x"):
        assert (await http.send("GET", path)).status == 404
    assert platform.calls == []


async def test_health_and_readiness(http: Gateway, server: EmbeddedServer) -> None:
    """Alive is alive; ready is only with NATS."""
    assert (await http.send("GET", "/healthz")).json == {"status": "ok"}
    assert (await http.send("GET", "/readyz")).status == 200
    server.stop()
    async with asyncio.timeout(10):
        while (await http.send("GET", "/readyz")).status != 503:
            await asyncio.sleep(0.01)
    assert (await http.send("GET", "/healthz")).status == 200


async def test_stopping_finishes_what_runs(server: EmbeddedServer, tmp_path: Path, platform: Platform) -> None:
    """A call that is under way when the gateway is told to stop is answered; then the port is free."""
    await platform.publish("slow")
    async with gateway(server, tmp_path) as http:
        call = asyncio.create_task(http.send("POST", "/function/slow", b"x"))
        await asyncio.wait({call}, timeout=0.2)  # it waits for an owner now
        asyncio.get_running_loop().call_later(0.2, lambda: asyncio.ensure_future(platform.serve("slow", echo)))
    assert (await call).body == b"x"
    with pytest.raises(ConnectionRefusedError):
        await http.raw()


async def _cut_off(http: Gateway, *pieces: bytes, again: bytes = b"") -> None:
    """Returns when the gateway has ended the connection of a client that sends these, and ``again`` over and over."""
    async with http.connected() as (reader, writer), asyncio.timeout(10):
        for piece in pieces:
            writer.write(piece)
        ended = asyncio.ensure_future(reader.read())
        try:
            while again and not ended.done():
                writer.write(again)
                await writer.drain()
                await asyncio.wait({ended}, timeout=0.1)
            assert await ended == b""
        except ConnectionError:
            ended.cancel()


@pytest.mark.parametrize(
    ("pieces", "again"),
    [
        ((), b""),
        ((b"POST /function/hello HTTP/1.1\r\n",), b"X: y\r\n"),
        ((b"POST /function/hello HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf",), b""),
    ],
    ids=["silent", "trickling head", "stalled body"],
)
async def test_client_that_takes_for_ever_is_cut_off(
    server: EmbeddedServer, tmp_path: Path, platform: Platform, pieces: tuple[bytes, ...], again: bytes
) -> None:
    """Whoever says nothing, trickles headers or stops in the middle of a body does not hold a connection for ever."""
    await platform.publish("hello")
    async with gateway(server, tmp_path, head_timeout_s=0.5, body_timeout_s=0.5) as http:
        await _cut_off(http, *pieces, again=again)


async def test_endless_head_is_cut_off(http: Gateway) -> None:
    """Headers without end are dropped long before they fill the memory."""
    await _cut_off(http, b"GET / HTTP/1.1\r\n", again=b"X: " + b"y" * 50_000 + b"\r\n")


async def test_concurrent_calls_get_their_own_answers(http: Gateway, platform: Platform) -> None:
    """Hundreds at once over few connections: every caller gets exactly what it asked for."""
    await platform.publish("hello")
    await platform.serve("hello", echo)

    async def client(number: int) -> None:
        async with http.connected() as (reader, writer):
            for turn in range(20):
                body = json.dumps([number, turn]).encode()
                head = b"POST /function/hello HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
                writer.write(head + body)
                assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
                assert await reader.readexactly(len(body)) == body

    async with asyncio.timeout(20):
        await asyncio.gather(*(client(number) for number in range(30)))
