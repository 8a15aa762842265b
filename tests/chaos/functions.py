"""What is deployed while things die: one function for each way to handle an event, and which event is for whom.

Every handler tells the witness, which is outside the platform, *before* it returns: what is not told there did not
happen, whatever the platform thinks of it.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

# Told by a connection that is opened at the first event: one at import would keep the version from a template.
_TELL = """
import os, socket, time

_witness = None

def tell(function, *ids):
    global _witness
    try:
        if _witness is None:
            _witness = socket.create_connection(("127.0.0.1", int(os.environ["WITNESS"])), timeout=10)
        _witness.sendall((" ".join([function, *ids]) + "\\n").encode())
        if _witness.recv(1) != b"\\n":
            raise ConnectionError("the witness has gone")
    except OSError:
        _witness = None
        raise

"""


@dataclass(frozen=True, eq=False)
class Function:
    name: str
    handler: str
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def source(self) -> str:
        return _TELL + self.handler

    def deployable(self, witness_port: int) -> dict[str, Any]:
        """Its settings: small, quick to retry, and patient with workers that die under it."""
        shared = {
            "memory": 32,
            "timeout": 10,
            "max_instances": 8,
            "connect": [witness_port],
            "env": {"WITNESS": str(witness_port)},
            "retries": {"attempts": 8, "backoff": 0.2, "max_backoff": 2},
        }
        return {**shared, **self.settings}


def on(*patterns: str) -> list[dict[str, str]]:
    return [{"event": pattern} for pattern in patterns]


STEADY = Function(
    "chaos-steady",
    'def handler(event, context):\n    tell("chaos-steady", event["id"])\n',
    {"triggers": on("chaos.>")},
)
SLOW = Function(
    "chaos-slow",
    'def handler(event, context):\n    time.sleep(0.3)\n    tell("chaos-slow", event["id"])\n',
    {"triggers": on("chaos.slow.*")},
)
FLAKY = Function(
    "chaos-flaky",
    "def handler(event, context):\n"
    '    if context.attempt < 2:\n        raise RuntimeError("not at the first attempt")\n'
    '    tell("chaos-flaky", event["id"])\n',
    {"triggers": on("chaos.flaky.*")},
)
POISON = Function(
    "chaos-poison",
    'def handler(event, context):\n    raise ValueError("never")\n',
    {"triggers": on("chaos.poison.*"), "retries": {"attempts": 2, "backoff": 0.2}},
)
BATCH = Function(
    "chaos-batch",
    'def handler(events, context):\n    tell("chaos-batch", *[event["id"] for event in events])\n',
    {"triggers": on("chaos.batch.*"), "batch": {"size": 20, "window": 0.2}},
)
ORDERED = Function(
    "chaos-ordered",
    'def handler(event, context):\n    tell("chaos-ordered", event["id"])\n',
    {"triggers": on("chaos.ordered.*"), "ordered": "subject.4"},
)
CALLED = Function("chaos-called", 'def handler(event, context):\n    tell("chaos-called", event["id"])\n')

ALL = (STEADY, SLOW, FLAKY, POISON, BATCH, ORDERED, CALLED)

_KEYS = 20  # of what is ordered


@dataclass(frozen=True)
class Event:
    id: str
    subject: str
    functions: tuple[str, ...]  # that must handle it
    key: str = ""  # events of one key are handled in the order of the stream

    @property
    def payload(self) -> bytes:
        return b'{"id": "%b"}' % self.id.encode()


# Of a hundred events, so many are for the function beside chaos-steady, which gets all but the calls.
_SHARES = {SLOW: 5, FLAKY: 10, POISON: 5, BATCH: 15, ORDERED: 15, CALLED: 10, STEADY: 40}


def events(rng: random.Random, seed: int, count: int) -> Iterator[Event]:
    """What a seed publishes: the same each time."""
    kinds = rng.choices(list(_SHARES), weights=list(_SHARES.values()), k=count)
    for number, function in enumerate(kinds):
        identity = f"s{seed}-{number}"
        if function is CALLED:
            yield Event(identity, f"async.{CALLED.name}", (CALLED.name,))
        elif function is STEADY:
            yield Event(identity, f"event.chaos.plain.{number}", (STEADY.name,))
        elif function is ORDERED:
            key = f"k{number % _KEYS}"
            yield Event(identity, f"event.chaos.ordered.{key}", (STEADY.name, ORDERED.name), key)
        else:
            kind = function.name.removeprefix("chaos-")
            yield Event(identity, f"event.chaos.{kind}.{number}", (STEADY.name, function.name))
