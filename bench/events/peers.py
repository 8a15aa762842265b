"""The peers' side: their workers as their own commands start them, and their publishers."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from events.measures import Kind
from events.processes import PEERS_BIN, Publisher, Worker, cpu_s

NATS, REDIS = "nats", "redis"
RAW = "raw JetStream"
TUNED = ", pulling 64"


@dataclass(frozen=True)
class Recipe:
    name: str
    kind: Kind
    broker: str
    publisher: str  # module that makes and sends its messages
    command: str  # of its worker
    pull: int = 1


_TASKIQ = "taskiq worker --workers 1 --max-async-tasks 64 --log-level WARNING events.peer_taskiq:broker"
_FASTSTREAM = "faststream run events.peer_faststream:app"
_CELERY = "celery -A events.peer_celery worker --pool threads --concurrency 64 --loglevel WARNING"
_DRAMATIQ = "dramatiq --processes 1 --threads 64 events.peer_dramatiq"

RECIPES = (
    Recipe(RAW, Kind.FLOOR, NATS, "events.plain", "python -m events.raw"),
    Recipe("taskiq-nats", Kind.PEER, NATS, "events.peer_taskiq", _TASKIQ),
    Recipe("taskiq-nats" + TUNED, Kind.TUNED_PEER, NATS, "events.peer_taskiq", _TASKIQ, pull=64),
    Recipe("FastStream", Kind.PEER, NATS, "events.plain", _FASTSTREAM),
    Recipe("FastStream" + TUNED, Kind.TUNED_PEER, NATS, "events.plain", _FASTSTREAM, pull=64),
    Recipe("Celery", Kind.PEER, REDIS, "events.peer_celery", _CELERY),
    Recipe("dramatiq", Kind.PEER, REDIS, "events.peer_dramatiq", _DRAMATIQ),
)


@dataclass(frozen=True)
class Peer:
    name: str
    kind: Kind
    publisher: Publisher
    worker: Worker
    broker: str
    broker_pid: int

    def cpu_s(self) -> dict[str, float]:
        return {"worker": cpu_s(self.worker.pid), self.broker: cpu_s(self.broker_pid)}

    def kill_worker(self) -> None:
        self.worker.kill()
        self.worker.start()


@contextmanager
def started(folder: Path, environment: Mapping[str, str], brokers: Mapping[str, int]) -> Iterator[list[Peer]]:
    """All whose broker is there. ``brokers``: name → pid."""
    with ExitStack() as stack:
        peers = []
        for number, recipe in enumerate(RECIPES):
            if recipe.broker not in brokers:
                continue
            own = {**environment, "BENCH_SUBJECT": f"bench.{number}", "BENCH_PULL": str(recipe.pull)}
            program, *arguments = recipe.command.split()
            worker = Worker([str(PEERS_BIN / program), *arguments], own, folder / f"worker-{number}.log")
            worker.start()
            stack.callback(worker.kill)
            publisher = Publisher(PEERS_BIN / "python", recipe.publisher, own)
            stack.callback(publisher.stop)
            peers.append(Peer(recipe.name, recipe.kind, publisher, worker, recipe.broker, brokers[recipe.broker]))
        try:
            yield peers
        except TimeoutError as error:
            for peer in peers:
                error.add_note(f"{peer.name} said last: {peer.worker.last_words()}")
            raise
