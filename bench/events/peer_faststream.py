"""FastStream: pull subscriber on JetStream, acknowledged after the work."""

import os

from faststream import AckPolicy, FastStream
from faststream.nats import JStream, NatsBroker, PullSub

from events.handler import handle_async

SUBJECT = os.environ["BENCH_SUBJECT"]
NAME = SUBJECT.replace(".", "-")
PULL = int(os.environ["BENCH_PULL"])
AT_ONCE = 64

broker = NatsBroker(os.environ["BENCH_NATS"], logger=None)
app = FastStream(broker, logger=None)


@broker.subscriber(
    SUBJECT,
    stream=JStream(NAME, subjects=[SUBJECT]),
    durable=NAME,
    pull_sub=PullSub(batch_size=PULL),
    max_workers=AT_ONCE if PULL == 1 else None,  # what was pulled together runs together: faster than workers
    ack_policy=AckPolicy.NACK_ON_ERROR,
)
async def count(event: dict[str, object]) -> None:
    await handle_async(event)
