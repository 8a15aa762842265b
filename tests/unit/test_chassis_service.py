"""A service's life: inside a test's loop, and as a process that is started, asked, signalled."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from mayfly_broker.server import EmbeddedServer
from mayfly_chassis.config import ServiceConfig
from mayfly_chassis.errors import NoResponders, Unauthorized
from mayfly_chassis.micro import Request
from mayfly_chassis.service import BackgroundTaskDied, Chassis, running
from tests.conftest import Connect, Eventually

SERVICE = """
import asyncio
import os
import signal
from contextlib import asynccontextmanager
from mayfly_chassis.config import ServiceConfig
from mayfly_chassis.service import main

async def fail_when_told(chassis):
    told = asyncio.Event()
    await chassis.bus.subscribe("mayfly.api.fail.now", lambda *_: told.set())
    await told.wait()
    raise RuntimeError("the background task was told to fail")

@asynccontextmanager
async def app(chassis, config):
    async def echo(request):
        return request.payload
    await chassis.micro.endpoint("echo", "mayfly.api.function.echo", echo)
    chassis.background("fail_when_told", fail_when_told(chassis))
    if "STOP_EARLY" in os.environ:
        os.kill(os.getpid(), signal.SIGTERM)  # comes to the loop when it waits next
    try:
        yield
    finally:
        chassis.log.info("app.exited")

main("operator", app, ServiceConfig)
"""


@pytest.fixture
def config(server: EmbeddedServer, tmp_path: Path) -> ServiceConfig:
    password = tmp_path / "password"
    password.write_text(server.passwords["operator"])
    return ServiceConfig(nats_url=server.url, nats_password_file=password)


def recording(steps: list[str]) -> Callable[[Chassis, ServiceConfig], AbstractAsyncContextManager[None]]:
    """An app that writes down what happens to it."""

    async def wait_for_ever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            steps.append("background cancelled")

    @asynccontextmanager
    async def app(chassis: Chassis, _config: ServiceConfig) -> AsyncIterator[None]:
        async def answer(request: Request) -> bytes:
            steps.append("request began")
            chassis.stopping.set()
            await asyncio.sleep(0.05)
            steps.append("request done")
            return request.payload

        await chassis.micro.endpoint("answer", "mayfly.api.function.answer", answer)
        chassis.background("wait", wait_for_ever())
        steps.append("entered")
        try:
            yield
        finally:
            assert chassis.bus.connected
            steps.append("exited")

    return app


async def test_a_service_stops_in_the_order_that_loses_nothing(config: ServiceConfig, connect: Connect) -> None:
    """A running request is answered before the app exits, and background tasks end after it."""
    steps: list[str] = []
    caller = await connect("operator")
    async with running("operator", recording(steps), config) as chassis:
        future = caller.request_future("mayfly.api.function.answer", b"x")
        await chassis.stopping.wait()
    assert (await future).payload == b"x"
    assert steps == ["entered", "request began", "request done", "exited", "background cancelled"]
    with pytest.raises(NoResponders):
        await caller.request("mayfly.api.function.answer")


async def test_services_run_side_by_side_in_one_process(config: ServiceConfig, connect: Connect) -> None:
    """Nothing is global: two of one kind answer discovery each for itself."""
    caller = await connect("operator")
    async with (
        running("operator", recording([]), config),
        running("second", recording([]), config.model_copy(update={"nats_user": "operator"}), role="operator"),
    ):
        replies = await caller.request_many("$SRV.PING", replies=2, timeout_s=5)
    assert {json.loads(reply.payload)["name"] for reply in replies} == {"operator", "second"}


async def test_a_background_task_that_dies_stops_its_service_with_its_error(config: ServiceConfig) -> None:
    """Nothing is half dead; the app exits in order all the same."""
    steps: list[str] = []

    async def dies() -> None:
        raise RuntimeError("lost its way")

    with pytest.raises(BackgroundTaskDied, match="operator: watch: lost its way") as caught:
        async with running("operator", recording(steps), config) as chassis:
            chassis.background("watch", dies())
            await asyncio.wait_for(chassis.stopping.wait(), 5)
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert steps == ["entered", "exited", "background cancelled"]


async def test_an_error_inside_is_raised_as_it_is(config: ServiceConfig) -> None:
    """A test's own failure, or an app's that cannot start, comes out unwrapped."""
    with pytest.raises(ZeroDivisionError):
        async with running("operator", recording([]), config):
            raise ZeroDivisionError

    @asynccontextmanager
    async def cannot_start(_chassis: Chassis, _config: ServiceConfig) -> AsyncIterator[None]:
        raise LookupError("no mirror")
        yield

    with pytest.raises(LookupError, match="no mirror"):
        async with running("operator", cannot_start, config):
            pytest.fail("it started")


async def test_a_wrong_password_ends_the_start(config: ServiceConfig, tmp_path: Path) -> None:
    """It would not become right by trying again."""
    (tmp_path / "password").write_text("wrong")
    with pytest.raises(Unauthorized):
        async with running("operator", recording([]), config):
            pytest.fail("it started")


class Process:
    """The service above, as a process."""

    def __init__(self, directory: Path, environ: dict[str, str]) -> None:
        directory.mkdir()
        (directory / "service.py").write_text(SERVICE)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(directory / "notify"))
        self.socket.settimeout(30)
        self.process = subprocess.Popen(
            [sys.executable, directory / "service.py"],
            env={"PATH": os.environ["PATH"], "NOTIFY_SOCKET": str(directory / "notify")} | environ,
            stderr=subprocess.PIPE,
            text=True,
        )

    async def state(self) -> str:
        return (await asyncio.to_thread(self.socket.recv, 100)).decode()

    async def line(self) -> str:
        assert self.process.stderr is not None
        return await asyncio.to_thread(self.process.stderr.readline)

    async def end(self) -> tuple[int, str]:
        _, errors = await asyncio.to_thread(self.process.communicate, timeout=30)
        return self.process.returncode, errors

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        self.socket.close()


@pytest.fixture
def start(tmp_path: Path, config: ServiceConfig) -> Iterator[Callable[..., Process]]:
    processes: list[Process] = []

    def start(**environ: str) -> Process:
        access = {"MAYFLY_NATS_URL": config.nats_url, "MAYFLY_NATS_PASSWORD_FILE": str(config.nats_password_file)}
        processes.append(Process(tmp_path / f"process{len(processes)}", access | environ))
        return processes[-1]

    yield start
    for process in processes:
        process.close()


def get(port: int, path: str) -> int:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
async def test_a_process_that_is_told_to_stop_stops_in_order(
    start: Callable[..., Process], connect: Connect, how: signal.Signals
) -> None:
    """Ready is said when it answers, stopping when it was told to, and the exit code is 0."""
    service = start()
    assert await service.state() == "READY=1"
    caller = await connect("operator")
    assert (await caller.request("mayfly.api.function.echo", b"x")).payload == b"x"
    service.process.send_signal(how)
    assert await service.state() == "STOPPING=1"
    code, errors = await service.end()
    assert code == 0
    events = [json.loads(line) for line in errors.splitlines()]
    assert [event["event"] for event in events] == [
        "service.ready",
        "service.stopping",
        "app.exited",
        "service.stopped",
    ]
    assert {event["service"] for event in events} == {"operator"}


async def test_a_process_that_is_told_to_stop_before_it_is_ready_stops_in_order(start: Callable[..., Process]) -> None:
    """Its app is entered, so others may count on it: that it has not said that it is ready changes nothing."""
    code, errors = await start(STOP_EARLY="1").end()
    assert code == 0
    events = [json.loads(line)["event"] for line in errors.splitlines()]
    assert events == ["service.ready", "service.stopping", "app.exited", "service.stopped"]


async def test_a_process_waits_for_the_server_and_can_be_stopped_while_it_does(
    start: Callable[..., Process], server: EmbeddedServer, eventually: Eventually
) -> None:
    """Services may start before NATS does; meanwhile it is alive but not ready."""
    server.stop()
    port = free_port()
    service, other = start(MAYFLY_HEALTH_PORT=str(port)), start()
    assert "bus.waiting" in await service.line()
    assert "bus.waiting" in await other.line()
    assert await asyncio.to_thread(get, port, "/healthz") == 200
    assert await asyncio.to_thread(get, port, "/readyz") == 503
    other.process.terminate()
    assert (await other.end())[0] == 0
    server.start()
    assert await service.state() == "READY=1"
    assert await asyncio.to_thread(get, port, "/readyz") == 200
    assert await asyncio.to_thread(get, port, "/elsewhere") == 404
    server.stop()
    async with asyncio.timeout(5):
        while await asyncio.to_thread(get, port, "/readyz") != 503:
            await asyncio.sleep(0.02)


async def test_a_process_ends_by_1_when_something_broke(start: Callable[..., Process], connect: Connect) -> None:
    """Whoever started it sees that it did not end by itself, and its log says why."""
    service = start()
    assert await service.state() == "READY=1"
    (await connect("operator")).publish("mayfly.api.fail.now")
    code, errors = await service.end()
    assert code == 1
    assert "the background task was told to fail" in errors
    assert "app.exited" in errors


async def test_a_process_ends_by_2_when_its_configuration_is_wrong(start: Callable[..., Process]) -> None:
    """With one line for each mistake, and no traceback."""
    service = start(MAYFLY_HEALTH_PORT="eighty", MAYFLY_NATS_PASSWORD_FILE="/nowhere")
    code, errors = await service.end()
    assert code == 2
    assert errors.startswith("operator: MAYFLY_OPERATOR_HEALTH_PORT=eighty") or "MAYFLY_HEALTH_PORT=eighty" in errors
    assert "Traceback" not in errors
