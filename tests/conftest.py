"""What every test may ask for: a NATS server of its own, connections to it, and a way to wait."""

import asyncio
import os
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Protocol

import pytest
from hypothesis import settings

from mayfly_broker.bootstrap import bootstrap
from mayfly_broker.config import make_passwords
from mayfly_broker.roles import OPERATOR
from mayfly_broker.server import EmbeddedServer
from mayfly_chassis.bus import Bus

# How long an example takes says something of the machine; what never ends, pytest's own limit ends.
settings.register_profile("mayfly", deadline=None)
settings.load_profile("mayfly")

Connect = Callable[[str], Awaitable[Bus]]


class Eventually(Protocol):
    async def __call__(self, condition: Callable[[], object], *, timeout_s: float = 5.0) -> None: ...


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[EmbeddedServer]:
    """A running nats-server with Mayfly's streams and buckets; anonymous connections are clients."""
    with EmbeddedServer(tmp_path / "nats", passwords=make_passwords()) as server:
        bus = await _connect(server, OPERATOR)
        await bootstrap(bus)
        await bus.close()
        yield server


@pytest.fixture
async def connect(server: EmbeddedServer) -> AsyncIterator[Connect]:
    """``await connect("router")``: a new connection in that role, closed after the test."""
    async with AsyncExitStack() as stack:

        async def connect(role: str) -> Bus:
            bus = await _connect(server, role)
            stack.push_async_callback(bus.close)
            return bus

        yield connect


@pytest.fixture
def eventually() -> Eventually:
    """``await eventually(lambda: ...)`` until it is true; fails the test when it is not in time."""

    async def eventually(condition: Callable[[], object], *, timeout_s: float = 5.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                pytest.fail(f"not true within {timeout_s} s")
            await asyncio.sleep(0.005)

    return eventually


@pytest.fixture(scope="session")
def nats_cli() -> str:
    """Path of the real ``nats`` command; skips where it is not installed."""
    places = (os.environ.get("PATH"), os.environ.get("GOBIN"), str(Path.home() / "go" / "bin"))
    found = shutil.which("nats", path=os.pathsep.join(place for place in places if place))
    if found is None:
        pytest.skip("nats CLI is not installed: go install github.com/nats-io/natscli/nats@latest")
    return found


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Where MAYFLY_EXPECTED_SKIPS is set (phrases, separated by commas), a skip for another reason fails the run."""
    expected = os.environ.get("MAYFLY_EXPECTED_SKIPS")
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if expected is None or reporter is None:
        return
    phrases = [phrase.strip() for phrase in expected.split(",") if phrase.strip()]
    for report in reporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not any(phrase in reason for phrase in phrases):
            reporter.write_line(f"unexpected skip: {report.nodeid}: {reason}", red=True)
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


async def _connect(server: EmbeddedServer, role: str) -> Bus:
    return await Bus.connect(server.url, name=f"test-{role}", role=role, user=role, password=server.passwords[role])
