"""One connection to a real nats-server: messages, requests, reconnects, limits."""

import asyncio
from collections.abc import Callable

import pytest
from nats.errors import StaleConnectionError

from mayfly_broker.server import EmbeddedServer
from mayfly_chassis.bus import OUTBOUND_LIMIT, Bus, Reply
from mayfly_chassis.errors import (
    BusClosed,
    ConnectFailed,
    MessageTooLarge,
    NoResponders,
    OutboundBufferFull,
    RequestTimeout,
    Unauthorized,
)
from tests.conftest import Connect, Eventually
from tests.pausing import pause, paused

HEADERS = b"NATS/1.0\r\nMayfly-Timeout-Ms: 100\r\nX: y\r\n\r\n"


def echo(bus: Bus) -> Callable[[bytes, bytes, bytes | None, bytes], None]:
    def callback(_subject: bytes, reply: bytes, headers: bytes | None, payload: bytes) -> None:
        if reply:
            bus.publish(reply, payload, headers=headers)

    return callback


async def test_header_blocks_and_payloads_pass_through_unchanged(connect: Connect) -> None:
    """Byte for byte, from empty to just below the server's limit."""
    service, caller = await connect("operator"), await connect("operator")
    await service.subscribe("echo", echo(service))
    await service.flush()
    for payload in (b"", b"x", b"\r\nPING\r\n", bytes(caller.payload_limit)):
        assert await caller.request("echo", payload) == Reply(None, payload)
        assert await caller.request("echo", payload, headers=HEADERS) == Reply(HEADERS, payload)
    assert await caller.request_future(b"echo", b"x", HEADERS) == Reply(HEADERS, b"x")


async def test_messages_of_one_tick_arrive_once_and_in_order(connect: Connect, eventually: Eventually) -> None:
    """A burst is one write, and nothing of it is lost, doubled or out of turn."""
    publisher, subscriber = await connect("operator"), await connect("operator")
    received: list[bytes] = []
    await subscriber.subscribe("burst.*", lambda _s, _r, _h, payload: received.append(payload))
    await subscriber.flush()
    sent = [str(number).encode() for number in range(20_000)]
    for number in sent:
        publisher.publish("burst.a", number)
    await eventually(lambda: len(received) >= len(sent))
    assert received == sent


async def test_a_callback_that_raises_stops_nothing(connect: Connect, eventually: Eventually) -> None:
    """The next message of the same subscription is delivered, and the connection stays."""
    bus = await connect("operator")
    received: list[bytes] = []

    def callback(_subject: bytes, _reply: bytes, _headers: bytes | None, payload: bytes) -> None:
        received.append(payload)
        raise RuntimeError("bug in a callback")

    await bus.subscribe("a", callback)
    for number in range(3):
        bus.publish("a", b"%d" % number)
    await eventually(lambda: len(received) == 3)
    assert bus.connected
    assert bus.reconnects == 0


async def test_nobody_there_is_said_at_once(connect: Connect) -> None:
    """No responders is an error of its own that names the subject, not a timeout."""
    bus = await connect("operator")
    with pytest.raises(NoResponders, match=r"no\.body"):
        await bus.request("no.body", timeout_s=30)
    assert await bus.request_many("no.body", timeout_s=30) == []


async def test_a_request_that_is_given_up_leaves_nothing_behind(connect: Connect, eventually: Eventually) -> None:
    """Timed out, cancelled or answered: nobody waits any longer, so memory does not grow with every lost reply."""
    bus = await connect("operator")
    await bus.subscribe("silent", lambda *_: None)
    with pytest.raises(RequestTimeout, match=r"silent: no reply in 0\.01 s"):
        await bus.request("silent", timeout_s=0.01)
    task = asyncio.create_task(bus.request("silent"))
    future = bus.request_future("silent")
    await eventually(lambda: "2 requests wait" in repr(bus))
    task.cancel()
    await asyncio.wait({task})
    future.cancel()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(bus.request_future("silent"), 0.01)
    assert "0 requests wait" in repr(bus)


async def test_request_many_gathers_what_comes_in_time(connect: Connect) -> None:
    """All that was asked for at once, or what there is when time is up."""
    services = [await connect("operator") for _ in range(3)]
    for service in services:
        await service.subscribe("all", echo(service))
        await service.flush()
    bus = await connect("operator")
    assert len(await bus.request_many("all", b"x", replies=3, timeout_s=30)) == 3
    assert await bus.request_many("all", b"x", timeout_s=0.2) == [Reply(None, b"x")] * 3


async def test_leaving_a_queue_group_loses_no_message(connect: Connect, eventually: Eventually) -> None:
    """What the server had already sent when ``unsubscribe`` was called is delivered before it returns."""
    publisher = await connect("operator")
    members = [await connect("operator") for _ in range(2)]
    received: list[bytes] = []
    subscriptions = [
        await member.subscribe("work", lambda _s, _r, _h, payload: received.append(payload), queue="router")
        for member in members
    ]
    for member in members:
        await member.flush()
    sent = 0
    for round_number in range(40):
        for _ in range(100):
            publisher.publish("work", b"%d" % sent)
            sent += 1
        await asyncio.sleep(0)
        if round_number == 20:
            await subscriptions[0].unsubscribe()
    await eventually(lambda: len(received) >= sent)
    assert sorted(map(int, received)) == list(range(sent))


async def test_thousands_of_subscriptions_are_no_tasks(connect: Connect, eventually: Eventually) -> None:
    """A subscription costs a table entry; each is called for its own messages only."""
    bus = await connect("operator")
    tasks = len(asyncio.all_tasks())
    received: list[bytes] = []
    for number in range(3000):
        await bus.subscribe(f"fn.f{number}", lambda subject, *_: received.append(subject), queue="router")
    assert len(asyncio.all_tasks()) == tasks
    for number in (0, 1500, 2999):
        bus.publish(f"fn.f{number}", b"")
    await eventually(lambda: len(received) == 3)
    assert received == [b"fn.f0", b"fn.f1500", b"fn.f2999"]


async def test_after_a_server_restart_everything_goes_on(
    server: EmbeddedServer, connect: Connect, eventually: Eventually
) -> None:
    """kill -9 and restart: subscriptions are replayed, requests work, the identity is the new connection's, and what
    was published while there was no connection arrives."""
    service, caller = await connect("operator"), await connect("operator")
    received: list[bytes] = []
    called: list[str] = []

    async def callback() -> None:
        await eventually(lambda: service.reconnects == 1)
        called.append((await caller.request("echo", b"after")).payload.decode())

    await service.subscribe("echo", echo(service), queue="router")
    await service.subscribe("kept", lambda _s, _r, _h, payload: received.append(payload))
    caller.on_reconnect(lambda: called.append("sync"))
    caller.on_reconnect(callback)
    await service.flush()
    identity = service.identity
    server.kill()
    await eventually(lambda: not service.connected and not caller.connected)
    service.publish("kept", b"while away", headers=HEADERS)
    server.start()
    await eventually(lambda: service.connected and service.identity.server != identity.server)
    await eventually(lambda: received == [b"while away"])
    await eventually(lambda: called == ["sync", "after"])
    assert (await caller.request("echo", b"again")).payload == b"again"
    assert service.reconnects == 1


async def test_a_flush_outlives_a_restart_and_can_be_given_up(
    server: EmbeddedServer, connect: Connect, eventually: Eventually
) -> None:
    """One that is under way when the server dies is answered by the next one, in time and not by a timeout; a cancelled
    one ends at once, and its late answer disturbs nobody."""
    bus = await connect("operator")
    with paused(server.pid):
        flushing = asyncio.create_task(bus.flush())
        given_up = asyncio.create_task(bus.flush())
        await asyncio.sleep(0)
        given_up.cancel()
        await asyncio.wait({given_up}, timeout=1)
        assert given_up.cancelled()
    await flushing
    pause(server.pid)
    flushing = asyncio.create_task(bus.flush())
    await asyncio.sleep(0)
    server.kill()
    await eventually(lambda: not bus.connected)
    server.start()
    async with asyncio.timeout(3):
        await flushing
    assert bus.reconnects == 1


async def test_a_subscription_given_up_while_away_does_not_come_back(
    server: EmbeddedServer, connect: Connect, eventually: Eventually
) -> None:
    """Made and dropped without a connection: the server must not think that somebody of the queue group is there."""
    bus = await connect("operator")
    server.kill()
    await eventually(lambda: not bus.connected)
    subscription = await bus.subscribe("fn.gone", lambda *_: None, queue="router")
    await subscription.unsubscribe()
    server.start()
    await eventually(lambda: bus.reconnects == 1)
    with pytest.raises(NoResponders):
        await bus.request("fn.gone", timeout_s=5)


async def test_what_waits_for_a_connection_is_bounded(
    server: EmbeddedServer, connect: Connect, eventually: Eventually
) -> None:
    """Without a server a publisher gets an error instead of all the memory."""
    bus = await connect("operator")
    server.kill()
    await eventually(lambda: not bus.connected)
    payload = bytes(1024 * 1024)
    with pytest.raises(OutboundBufferFull):
        for _ in range(OUTBOUND_LIMIT // len(payload) + 2):
            bus.publish("a", payload)


async def test_what_waits_for_a_stalled_server_is_bounded(
    server: EmbeddedServer, connect: Connect, eventually: Eventually
) -> None:
    """A server that is there but reads nothing (SIGSTOP) is the same; and when it goes on, so does everything."""
    bus = await connect("operator")
    received = 0

    def count(*_call: object) -> None:
        nonlocal received
        received += 1

    await bus.subscribe("a", count)
    await bus.flush()
    payload, sent = bytes(1024 * 1024), 0
    with paused(server.pid), pytest.raises(OutboundBufferFull):
        for _ in range(10 * OUTBOUND_LIMIT // len(payload)):
            bus.publish("a", payload)
            sent += 1
            await asyncio.sleep(0)
    assert sent < 3 * OUTBOUND_LIMIT // len(payload)
    await eventually(lambda: received == sent, timeout_s=20)


async def test_a_connection_to_a_dead_peer_is_dropped_with_what_it_holds(
    server: EmbeddedServer, connect: Connect, eventually: Eventually
) -> None:
    """Pings unanswered: the client leaves at once, instead of waiting for its data to be taken first."""
    bus = await connect("operator")
    with paused(server.pid):
        for _ in range(4):
            bus.publish("a", bytes(8_000_000))
        await asyncio.sleep(0)
        await bus._client._process_op_err(StaleConnectionError())
        await eventually(lambda: not bus._connected.is_set())
    await eventually(lambda: bus.reconnects == 1)
    await bus.flush()


async def test_a_message_above_the_servers_limit_does_not_close_the_connection(connect: Connect) -> None:
    """It would, for good: the publisher gets the error before anything is sent."""
    bus = await connect("operator")
    with pytest.raises(MessageTooLarge, match=str(bus.max_payload)):
        bus.publish("a", bytes(bus.max_payload), headers=HEADERS)
    await bus.flush()
    assert bus.reconnects == 0


@pytest.mark.parametrize("subject", ["", b"", "a b", "a\r\nPUB b 0\r\n", "a\tb", "a\x00b"])
async def test_a_subject_cannot_smuggle_in_a_command(connect: Connect, subject: str | bytes) -> None:
    """What is no subject is refused, as subject and as reply, and the connection stays as it is."""
    bus = await connect("operator")
    with pytest.raises(ValueError, match="subject"):
        bus.publish(subject, b"")
    if subject:
        with pytest.raises(ValueError, match="subject"):
            bus.publish("a", b"", reply=subject)
        with pytest.raises(ValueError, match="subject"):
            await bus.subscribe(str(subject), lambda *_: None)
    await bus.flush()


async def test_a_refused_permission_closes_nothing(connect: Connect) -> None:
    """The request times out, and the next one that is allowed works."""
    bus = await connect("client")
    with pytest.raises(RequestTimeout):
        await bus.request("mayfly.api.function.list", timeout_s=0.1)
    await bus.flush()
    assert bus.connected


async def test_a_wrong_password_is_an_error_at_once(server: EmbeddedServer) -> None:
    """Not a client that tries for ever."""
    with pytest.raises(Unauthorized):
        await Bus.connect(server.url, name="test", role="router", user="router", password="wrong")


async def test_no_server_is_an_error_at_once(server: EmbeddedServer) -> None:
    """Whoever starts a service decides how long to wait."""
    server.kill()
    with pytest.raises(ConnectFailed):
        await Bus.connect(server.url, name="test", role="router")


async def test_closing_sends_what_is_pending_and_ends_what_waits(connect: Connect, eventually: Eventually) -> None:
    """The last message arrives, a request under way gets an error, and afterwards everything is refused."""
    closing, other = await connect("operator"), await connect("operator")
    received: list[bytes] = []
    await other.subscribe("last", lambda _s, _r, _h, payload: received.append(payload))
    await other.subscribe("silent", lambda *_: None)
    await other.flush()
    waiting = asyncio.create_task(closing.request("silent", timeout_s=30))
    await eventually(lambda: "1 requests wait" in repr(closing))
    closing.publish("last", b"words")
    await closing.close()
    await closing.close()
    with pytest.raises(BusClosed):
        await waiting
    with pytest.raises(BusClosed):
        closing.publish("last", b"")
    with pytest.raises(BusClosed):
        await closing.subscribe("last", lambda *_: None)
    await eventually(lambda: received == [b"words"])


async def test_closing_does_not_wait_for_a_server_that_takes_nothing(
    server: EmbeddedServer, connect: Connect, eventually: Eventually
) -> None:
    """Stalled or gone: a service that is told to stop stops."""
    stalled, gone = await connect("operator"), await connect("operator")
    with paused(server.pid):
        stalled.publish("a", bytes(8_000_000))
        async with asyncio.timeout(5):
            await stalled.close()
    server.kill()
    await eventually(lambda: not gone.connected)
    gone.publish("a", bytes(8_000_000))
    async with asyncio.timeout(5):
        await gone.close()


async def test_thrown_out_for_good_is_reported(server: EmbeddedServer, eventually: Eventually) -> None:
    """Some errors make nats-py close whatever it was told about reconnecting: the service must hear of it."""
    told: list[bool] = []
    bus = await Bus.connect(
        server.url,
        name="test",
        role="operator",
        user="operator",
        password=server.passwords["operator"],
        on_closed=lambda: told.append(True),
    )
    waiting = bus.request_future("mayfly.sys.nobody.answers.this.one")
    bus.max_payload = 1 << 40  # so that we do what a bug would
    bus.publish("a", bytes(9_000_000))
    await eventually(lambda: told == [True])
    with pytest.raises((BusClosed, NoResponders)):
        await waiting
    await bus.close()
