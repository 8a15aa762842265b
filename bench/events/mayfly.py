"""Mayfly's side: two functions with a trigger each, one of a single instance and one of 64."""

import inspect
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from events import handler
from events.measures import Kind
from events.processes import PEERS_BIN, Publisher
from system import System

SOURCE = inspect.getsource(handler) + "\n\ndef handler(event, context):\n    handle(event)\n"
ONE, MANY = "Mayfly, 1 instance", "Mayfly, 64 instances"


@dataclass(frozen=True)
class Mayfly:
    name: str
    publisher: Publisher
    system: System
    kind: Kind = Kind.OURS

    def cpu_s(self) -> dict[str, float]:
        return self.system.cpu_s()

    def kill_worker(self) -> None:
        """`mayfly up` starts it again."""
        os.kill(self.system.services()["worker"], signal.SIGKILL)


def deploy(system: System, counter_port: int, environment: Mapping[str, str], name: str, instances: int) -> Mayfly:
    subject = f"bench.{instances}"
    system.deploy(
        f"bench-events-{instances}", SOURCE, triggers=[{"event": subject}], max_instances=instances, memory=64,
        activation="eager", timeout=10, env={"BENCH_COUNTER": str(counter_port)}, connect=[counter_port],
    )  # fmt: skip
    own = {**environment, "BENCH_SUBJECT": f"event.{subject}"}
    return Mayfly(name, Publisher(PEERS_BIN / "python", "events.plain", own), system)


@contextmanager
def started(system: System, counter_port: int, environment: Mapping[str, str]) -> Iterator[list[Mayfly]]:
    sides = [deploy(system, counter_port, environment, name, n) for name, n in ((ONE, 1), (MANY, 64))]
    try:
        yield sides
    finally:
        for side in sides:
            side.publisher.stop()
