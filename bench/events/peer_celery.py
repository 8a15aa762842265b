"""Celery on Redis: acknowledged late, a pool of threads, no result backend."""

import base64
import copy
import json
import os
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any
from uuid import uuid4

import redis
from celery import Celery

from events.handler import handle
from events.publisher import chunks

QUEUE = "celery"

app = Celery("bench", broker=os.environ["BENCH_REDIS"])
app.conf.update(task_acks_late=True, task_ignore_result=True, broker_connection_retry_on_startup=True)


@app.task(name="count")
def count(event: dict[str, object]) -> None:
    handle(event)


@cache
def template() -> tuple[dict[str, Any], list[Any]]:
    """A message and its body as Celery writes them, out of a queue that nobody reads."""
    count.apply_async([None], queue="template")
    written = json.loads(redis.Redis.from_url(os.environ["BENCH_REDIS"]).lpop("template"))
    written["properties"]["delivery_info"]["routing_key"] = QUEUE
    return written, json.loads(base64.b64decode(written["body"]))


def message(event: dict[str, object]) -> bytes:
    written, (_, keywords, embed) = copy.deepcopy(template())
    written["body"] = base64.b64encode(json.dumps([[event], keywords, embed]).encode()).decode()
    written["headers"] |= {"id": (task := str(uuid4())), "root_id": task, "argsrepr": repr([event])}
    written["properties"] |= {"correlation_id": task, "delivery_tag": str(uuid4())}
    return json.dumps(written).encode()


def sender() -> Callable[[Sequence[bytes]], None]:
    client = redis.Redis.from_url(os.environ["BENCH_REDIS"])

    def send(messages: Sequence[bytes]) -> None:
        for chunk in chunks(messages):
            client.lpush(QUEUE, *chunk)

    return send
