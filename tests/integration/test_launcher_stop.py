"""A stop that takes long: what has a limit is killed at it, nats-server is waited for. Real servers, really slow."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import nats
import pytest
from nats.js.api import ConsumerConfig

from mayfly.launcher import supervisor
from mayfly.launcher.run import NatsRun, ServiceRun
from mayfly.launcher.supervisor import Service, Supervisor
from mayfly_broker.roles import OPERATOR
from mayfly_broker.server import EmbeddedServer
from mayfly_proto import storage, subjects
from tests.conftest import Eventually

CONSUMERS = 150  # nats-server stops one every 10 ms
SHORT_S = 0.3


@pytest.fixture
async def slow(server: EmbeddedServer) -> AsyncIterator[EmbeddedServer]:
    """A server that is not running, and takes more than a second for its next stop."""
    connection = await nats.connect(server.url, user=OPERATOR, password=server.passwords[OPERATOR])
    stream, numbers = connection.jetstream(timeout=30), range(CONSUMERS)
    configs = [ConsumerConfig(durable_name=f"c{n}", filter_subject=subjects.event(f"slow.{n}")) for n in numbers]
    await asyncio.gather(*(stream.add_consumer(storage.EVENTS, config) for config in configs))
    await connection.close()
    server.kill()
    yield server


def last_words(server: EmbeddedServer) -> str:
    return server.log_file.read_text().splitlines()[-1]


def service(server: EmbeddedServer, stop_s: float | None) -> Service:
    return Service("nats", "nats", server.log_file, lambda: NatsRun(server), stop_s=stop_s)


async def stopped(service: Service, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Start it, stop it, and tell what the user was told."""
    monkeypatch.setattr(supervisor, "SLOW_STOP_S", SHORT_S)
    said: list[str] = []
    service.run = service.start()
    await service.stop(said.append)
    return said


async def test_nats_is_never_killed_for_being_slow(slow: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its stop ends by itself, well after any patience, and the user was told what is waited for."""
    said = await stopped(service(slow, stop_s=None), monkeypatch)
    assert said == ["waiting for nats to stop, for as long as it takes; a further Ctrl-C ends it now"]
    assert not slow.running
    assert "Server Exiting" in last_words(slow)


async def test_a_limit_is_a_limit(slow: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has a limit is killed at it: so the test above waits for something that would be killed."""
    await stopped(service(slow, stop_s=2 * SHORT_S), monkeypatch)
    assert not slow.running
    assert "Server Exiting" not in last_words(slow)


async def test_a_slow_stop_can_be_cut_short(
    slow: EmbeddedServer, monkeypatch: pytest.MonkeyPatch, eventually: Eventually
) -> None:
    """`kill`, which is what a second Ctrl-C does, ends even that which is waited for as long as it takes."""
    keeper = Supervisor(lambda: None, lambda _line: None)
    nats_service = service(slow, stop_s=None)
    keeper.services.append(nats_service)
    monkeypatch.setattr(supervisor, "SLOW_STOP_S", SHORT_S)
    nats_service.run = nats_service.start()
    await nats_service.stop(lambda _line: keeper.kill())
    await eventually(lambda: not slow.running)
    assert "Server Exiting" not in last_words(slow)


HURRIED_BY_A_SECOND_SIGNAL = """
import signal, sys, time
asked = []

def stop(*_):
    if asked:
        sys.exit(3)
    asked.append(1)
    print("stopping", flush=True)

signal.signal(signal.SIGTERM, stop)
print("ready", flush=True)
while not asked:
    time.sleep(0.01)
time.sleep(0.3)
"""


async def test_who_stops_already_is_not_asked_again(tmp_path: Path, eventually: Eventually) -> None:
    """A worker that is taken away finishes its calls, also when the whole platform is told to stop meanwhile: a second
    SIGTERM would end it at once."""
    (tmp_path / "slow_to_stop.py").write_text(HURRIED_BY_A_SECOND_SIGNAL)
    log, environment = tmp_path / "log", {**os.environ, "PYTHONPATH": str(tmp_path)}
    worker = Service("worker", "worker-n2", log, lambda: ServiceRun("slow_to_stop", environment, log, None))
    worker.run = worker.start()
    await eventually(lambda: log.read_text() == "ready\n")
    first = asyncio.create_task(worker.stop(lambda _line: None))
    await eventually(lambda: log.read_text() == "ready\nstopping\n")
    await worker.stop(lambda _line: None)
    await first
    assert worker.run.ended.result() == "exit code 0"


async def test_embedded_server_waits_for_its_own_end(slow: EmbeddedServer, tmp_path: Path) -> None:
    """`stop` returns when the store is whole and free: the server ended in good order, and another may start."""
    slow.start()
    slow.stop()
    assert "Server Exiting" in last_words(slow)
    assert slow.store_owner() == ""
    assert EmbeddedServer(tmp_path / "never", passwords={}).store_owner() == ""
