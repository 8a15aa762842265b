"""taskiq with taskiq-nats: pull broker on JetStream, acknowledged after the work (its default)."""

import os
from uuid import uuid4

from taskiq.message import TaskiqMessage
from taskiq_nats import PullBasedJetStreamBroker

from events.handler import handle_async
from events.publisher import Nats

SUBJECT = os.environ["BENCH_SUBJECT"]
NAME = SUBJECT.replace(".", "-")
PULL = int(os.environ["BENCH_PULL"])

broker = PullBasedJetStreamBroker(
    os.environ["BENCH_NATS"], subject=SUBJECT, stream_name=NAME, durable=NAME,
    pull_consume_batch=PULL,
    pull_consume_timeout=None if PULL == 1 else 1.0,  # without one, a pull of 64 waits for all 64
)  # fmt: skip


@broker.task(task_name="count")
async def count(event: dict[str, object]) -> None:
    await handle_async(event)


def message(event: dict[str, object]) -> bytes:
    task = TaskiqMessage(task_id=uuid4().hex, task_name="count", labels={}, args=[event], kwargs={})
    return broker.formatter.dumps(task).message


def sender() -> Nats:
    return Nats(SUBJECT)
