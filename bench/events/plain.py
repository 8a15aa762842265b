"""Publishes events as they are: the JSON, on the subject in BENCH_SUBJECT."""

import json
import os

from events.publisher import Nats


def message(event: dict[str, object]) -> bytes:
    return json.dumps(event).encode()


def sender() -> Nats:
    return Nats(os.environ["BENCH_SUBJECT"])
