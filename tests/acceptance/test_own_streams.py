"""Functions that what the operator's own streams and subjects hold may run, as `access.toml` grants it."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.aio.client import Client

from tests.acceptance.conftest import Platform
from tests.acceptance.test_durable import deploy, rows, until

SEEN = "def handler(event, context):\n    print('seen', len(event))\n    return event[:1]\n"


@pytest.fixture
async def operator(granting: Platform) -> AsyncIterator[Client]:
    prefix = b"_INBOX_operator"
    client = await nats.connect(
        granting.nats,
        user=granting.user,
        password=granting.password,
        inbox_prefix=prefix,
        pending_size=32 * 1024 * 1024,
    )
    yield client
    await client.close()


def logged(platform: Platform, name: str) -> str:
    return platform.cli("logs", name).stdout


async def test_what_no_call_can_carry_is_a_dead_letter_that_says_where_it_is(
    granting: Platform, operator: Client, tmp_path: Path
) -> None:
    """A stream of one's own takes as much as the server; such a message must not keep the ones behind it waiting."""
    stream = operator.jetstream()
    await stream.add_stream(name="PARCELS", subjects=["parcels.>"])
    deploy(granting, tmp_path, "own-parcels", 'triggers = [{ stream = "PARCELS", subject = "parcels.>" }]', code=SEEN)
    router = next(each["pid"] for each in granting.services() if each["name"] == "router")
    await stream.publish("parcels.1", b"x" * (operator.max_payload - 10), timeout=20)
    await stream.publish("parcels.2", b"short")
    until(lambda: "seen 5" in logged(granting, "own-parcels"))
    (letter,) = until(lambda: rows(granting, "dlq", "ls", "own-parcels"))
    assert (letter["invocation"], letter["subject"], letter["size"]) == ("X1", "parcels.1", 0)
    assert "message 1 of stream PARCELS" in letter["reason"]
    assert router == next(each["pid"] for each in granting.services() if each["name"] == "router")


async def test_a_destination_outside_the_events_is_sent_once_and_ends_the_event(
    granting: Platform, operator: Client, tmp_path: Path
) -> None:
    """Whether anybody listens or not: the function has run, and does not run again for want of a listener."""
    deploy(granting, tmp_path, "own-alerts", 'triggers = [{ event = "own.>" }]', 'on_success = "alerts.own"', code=SEEN)
    granting.cli("publish", "own.a", "unheard")
    until(lambda: "seen 7" in logged(granting, "own-alerts"))
    alerts = await operator.subscribe("alerts.own")
    await operator.flush()
    granting.cli("publish", "own.a", "heard it")
    alert = await alerts.next_msg(timeout=20)
    assert (alert.data, alert.headers["Mayfly-Source-Function"]) == (b"h", "own-alerts")
    consumer: dict[str, Any] = json.loads((await operator.request("$JS.API.CONSUMER.INFO.EVENTS.own-alerts_1")).data)
    assert (consumer["num_ack_pending"], consumer["num_redelivered"]) == (0, 0)
    assert logged(granting, "own-alerts").count("seen 7") == 1


async def test_a_subject_of_core_nats_runs_a_function_for_what_is_published_while_it_is_deployed(
    granting: Platform, operator: Client, tmp_path: Path
) -> None:
    """At most once: nothing keeps it, and a failure is the end of it."""
    code = "def handler(event, context):\n    print('seen', context.event.nats_subject)\n    raise ValueError\n"
    deploy(granting, tmp_path, "own-sensors", 'triggers = [{ subject = "sensors.>" }]', code=code)
    await operator.publish("sensors.attic", b"21")
    await operator.flush()
    until(lambda: "seen sensors.attic" in logged(granting, "own-sensors"))
    assert rows(granting, "dlq", "ls", "own-sensors") == []
