"""The floor: stock nats-py on the same server, and nothing else. Two pulls in flight, asked for again in time, one
callback, a bare ``+ACK``."""

import asyncio
import json
import os

import nats
import uvloop
from nats.aio.msg import Msg
from nats.js.api import ConsumerConfig

from events.handler import handle

NAME = "bench-raw"
BATCH = 500


async def consume() -> None:
    client = await nats.connect(os.environ["BENCH_NATS"])
    jetstream = client.jetstream()
    await jetstream.add_stream(name=NAME, subjects=[os.environ["BENCH_SUBJECT"]])
    await jetstream.add_consumer(NAME, ConsumerConfig(durable_name=NAME, max_ack_pending=10_000))
    inbox, left = client.new_inbox(), 0

    async def pull() -> None:
        nonlocal left
        left += BATCH
        await client.publish(f"$JS.API.CONSUMER.MSG.NEXT.{NAME}.{NAME}", b'{"batch": %d}' % BATCH, inbox)

    async def received(event: Msg) -> None:
        nonlocal left
        handle(json.loads(event.data))
        await client.publish(event.reply, b"+ACK")
        left -= 1
        if left <= BATCH:
            await pull()

    await client.subscribe(inbox, cb=received)
    await pull()
    await pull()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(consume())
