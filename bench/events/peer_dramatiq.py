"""dramatiq on Redis, which acknowledges after the work; its default middleware, no results."""

import os
from collections.abc import Callable, Sequence
from uuid import uuid4

import dramatiq
import redis
from dramatiq.brokers.redis import RedisBroker

from events.handler import handle
from events.publisher import chunks

QUEUE = "default"

broker = RedisBroker(url=os.environ["BENCH_REDIS"])
dramatiq.set_broker(broker)


@dramatiq.actor(actor_name="count", queue_name=QUEUE)
def count(event: dict[str, object]) -> None:
    handle(event)


def message(event: dict[str, object]) -> bytes:
    return count.message(event).copy(options={"redis_message_id": str(uuid4())}).encode()


def sender() -> Callable[[Sequence[bytes]], None]:
    """Does what the broker's Lua script does for each message, for a chunk at once."""
    client = redis.Redis.from_url(os.environ["BENCH_REDIS"])

    def send(messages: Sequence[bytes]) -> None:
        for chunk in chunks(messages):
            waiting = {broker_id(written): written for written in chunk}
            with client.pipeline() as pipeline:
                pipeline.hset(f"dramatiq:{QUEUE}.msgs", mapping=waiting)
                pipeline.rpush(f"dramatiq:{QUEUE}", *waiting)
                pipeline.execute()

    return send


def broker_id(written: bytes) -> str:
    return str(dramatiq.Message.decode(written).options["redis_message_id"])
