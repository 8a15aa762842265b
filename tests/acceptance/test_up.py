"""`mayfly up`: starts a platform, keeps it running, stops it cleanly, and leaves nothing behind."""

import asyncio
import json
import os
import signal
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from nats.js.api import ConsumerConfig

import mayfly
from mayfly_chassis.errors import Unauthorized
from tests.acceptance import outside
from tests.acceptance.conftest import MAYFLY, Platform, running, start, stop

SERVICES = {"nats", "registry", "router", "activator", "worker", "gateway", "scaler"}
SLOW_CONSUMERS = 400
HELLO = "def handler(event, context):\n    return 'hello ' + event['name']\n"


def until(condition: Callable[[], object], timeout_s: float = 20) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "not reached in time"
        time.sleep(0.02)


def says_hello(platform: Platform) -> bool:
    done = platform.cli("invoke", "hello", "-d", '{"name":"Ada"}', check=False)
    return done.returncode == 0 and done.stdout == "hello Ada"


@pytest.mark.timeout(120)
def test_life_of_a_platform(tmp_path: Path) -> None:
    """From nothing to calls that work, and after SIGTERM to no process at all; the same data serves the next start."""
    (tmp_path / "hello.py").write_text(HELLO)
    platform = start(tmp_path / "data", tmp_path / "config")
    try:
        assert {entry["name"] for entry in platform.services()} == SERVICES
        assert all(outside.alive(entry["pid"]) for entry in platform.services())
        assert any(platform.token in line for line in platform.banner)
        platform.cli("deploy", str(tmp_path / "hello.py"))
        assert says_hello(platform)
        processes = [platform.process.pid, *outside.below(platform.process.pid)]
        facts = platform.facts()
    finally:
        code = stop(platform)
    assert code == 0
    assert not [pid for pid in processes if outside.alive(pid)]
    assert platform.services() == []

    again = start(tmp_path / "data", tmp_path / "config")
    try:
        assert says_hello(again)
        assert (again.token, again.password) == (facts["token"], facts["password"])
        assert not any(again.token in line for line in again.banner), "the token is said once"
    finally:
        stop(again)


@pytest.mark.parametrize("service", sorted(SERVICES))
def test_dead_service_is_started_again_and_published(mortal: Platform, tmp_path: Path, service: str) -> None:
    """kill -9 of any process: it comes back, platform.json tells its new pid, and calls work."""
    (tmp_path / "hello.py").write_text(HELLO)
    until(lambda: mortal.cli("deploy", str(tmp_path / "hello.py"), check=False).returncode == 0)
    before = outside.pid_of(mortal, service)
    outside.kill_9(before)
    until(lambda: {entry["name"]: entry["pid"] for entry in mortal.services()}.get(service, before) != before)
    until(lambda: says_hello(mortal))
    assert {entry["name"] for entry in mortal.services()} == SERVICES


def test_nothing_outlives_a_launcher_that_is_killed(tmp_path: Path) -> None:
    """kill -9 of `mayfly up` itself takes every process with it; the data directory is free for the next one."""
    with running(tmp_path) as platform:
        processes = outside.below(platform.process.pid)
        assert len(processes) >= len(SERVICES)
        outside.kill_9(platform.process.pid)
        until(lambda: not [pid for pid in processes if outside.alive(pid)])
    with running(tmp_path) as platform:
        assert {entry["name"] for entry in platform.services()} == SERVICES


def test_second_platform_on_the_same_data_is_refused(platform: Platform) -> None:
    """One line that says who has it, and exit code 1."""
    done = platform.cli("up", "--port", "0", "--nats-port", "0", check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert f"in use by another `mayfly up` (process {platform.process.pid})" in done.stderr


SENSOR = "def handler(event, context):\n    return event\n"


def test_access_is_not_what_the_file_says(tmp_path: Path) -> None:
    """The server's roles and the registry follow one access.toml; a file that is wrong ends `up` with one line."""
    data = tmp_path / "data"
    data.mkdir()
    (data / "access.toml").write_text('trigger_subjects = ["sensors.>"]\n')
    project = tmp_path / "project"
    project.mkdir()
    (project / "main.py").write_text(SENSOR)
    manifest = project / "mayfly.toml"
    with running(tmp_path) as platform:
        manifest.write_text('[functions.a]\ntriggers = [{ subject = "sensors.*" }]\n')
        platform.cli("deploy", str(project))
        manifest.write_text('[functions.b]\ntriggers = [{ subject = "stocks.*" }]\n')
        refused = platform.cli("deploy", str(project), check=False)
        assert "trigger_subjects in access.toml" in refused.stderr
    (tmp_path / "other.toml").write_text("trigger_subjects = 3\n")
    command = ("up", "--port", "0", "--nats-port", "0", "--access", str(tmp_path / "other.toml"))
    done = platform.cli(*command, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "other.toml: trigger_subjects" in done.stderr


@pytest.mark.parametrize(("option", "address"), [("--port", "http"), ("--nats-port", "nats")])
def test_port_that_is_taken_is_said(platform: Platform, tmp_path: Path, option: str, address: str) -> None:
    """With the option that chooses another one."""
    taken = platform.facts()[address].rpartition(":")[2]
    flags = {"--port": "0", "--nats-port": "0", option: taken}
    arguments = [text for pair in flags.items() for text in pair]
    done = platform.cli("up", "--data", str(tmp_path / "data"), *arguments, check=False)
    assert done.returncode == 1
    assert f"choose another with {option}" in done.stderr


def test_what_is_secret_is_private(platform: Platform) -> None:
    """Directories 0700, secrets and platform.json 0600, no secret on any command line or in any environment."""
    secrets = list((platform.data / "secrets").iterdir())
    assert stat.S_IMODE(platform.data.stat().st_mode) == 0o700
    for path in [*secrets, platform.data / "platform.json"]:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    words = [path.read_bytes() for path in secrets]
    for entry in platform.services():
        for file in ("cmdline", "environ"):
            text = Path(f"/proc/{entry['pid']}/{file}").read_bytes()
            assert not [word for word in words if word in text], (entry, file)


def test_two_nodes_are_two_workers(tmp_path: Path) -> None:
    """`--nodes 2`: both are published, both have a lease."""
    with running(tmp_path, "--nodes", "2", "--node-memory", "256") as platform:
        assert sorted(entry["name"] for entry in platform.services()).count("worker") == 2
        rows = json.loads(platform.cli("nodes", "-o", "json").stdout)
        assert [(row["node"], row["memory_mb"]) for row in rows] == [("n1", 256), ("n2", 256)]


async def test_secure_platform_refuses_strangers(tmp_path: Path) -> None:
    """`--secure`: without credentials there is no connection, with the operator's there is."""
    with running(tmp_path, "--secure") as platform:
        with pytest.raises(Unauthorized):
            async with mayfly.Client(nats=platform.nats):
                pass
        async with outside.client(platform.nats, user=platform.user, password=platform.password) as connection:
            assert connection.is_connected


@pytest.mark.parametrize("sign", ["nats/run/*.ports", "logs/worker.log", "platform.json"])
def test_stops_at_any_moment_of_its_start(tmp_path: Path, sign: str) -> None:
    """SIGTERM while it connects, starts its services, or has just said that it is ready: it always ends."""
    environ = {**os.environ, "XDG_CONFIG_HOME": str(tmp_path / "config")}
    command = [MAYFLY, "up", "--data", str(tmp_path / "data"), "--port", "0", "--nats-port", "0"]
    process = subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until(lambda: list((tmp_path / "data").glob(sign)))
        below = outside.below(process.pid)
        process.terminate()
        assert process.wait(timeout=20) == 0
    finally:
        process.kill()
        process.wait()
    until(lambda: not [pid for pid in below if outside.alive(pid)])


def test_ctrl_c_stops_and_a_second_one_hurries(tmp_path: Path) -> None:
    """SIGINT to the whole foreground group, as a terminal sends it; twice, and it is over at once."""
    environ = {**os.environ, "XDG_CONFIG_HOME": str(tmp_path / "config")}
    command = [MAYFLY, "up", "--data", str(tmp_path / "data"), "--port", "0", "--nats-port", "0"]
    process = subprocess.Popen(
        command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, process_group=0
    )
    assert process.stdout is not None
    with process.stdout as output:
        until(lambda: output.readline().startswith("ready"), timeout_s=60)
        below = outside.below(process.pid)
        os.killpg(process.pid, signal.SIGINT)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(timeout=10) == 0
    until(lambda: not [pid for pid in below if outside.alive(pid)])


async def slow_to_stop(platform: Platform) -> None:
    """Durable consumers, 10 ms of nats-server's stop each."""
    async with outside.client(platform.nats, user=platform.user, password=platform.password) as connection:
        stream = connection.jetstream(timeout=30)  # for all of them at once
        numbers = range(SLOW_CONSUMERS)
        configs = [ConsumerConfig(durable_name=f"slow{n}", filter_subject=f"event.slow.{n}") for n in numbers]
        await asyncio.gather(*(stream.add_consumer("EVENTS", config) for config in configs))


async def test_a_slow_nats_is_waited_for_and_said(tmp_path: Path) -> None:
    """More than any patience for a service: `up` says what it waits for, and nats-server ends in good order."""
    platform = start(tmp_path / "data", tmp_path / "config")
    assert platform.process.stdout is not None
    try:
        await slow_to_stop(platform)
        platform.process.terminate()
        said = platform.process.stdout.read()
    finally:
        code = stop(platform)
    assert code == 0
    assert "waiting for nats to stop, for as long as it takes; a further Ctrl-C ends it now" in said
    assert "Server Exiting" in (tmp_path / "data/nats/nats-server.log").read_text().splitlines()[-1]


async def test_a_slow_nats_ends_at_a_second_ctrl_c(tmp_path: Path) -> None:
    """Once it is said what is waited for, one more signal ends it there and then, and the data serve the next run."""
    platform = start(tmp_path / "data", tmp_path / "config")
    assert platform.process.stdout is not None
    try:
        await slow_to_stop(platform)
        platform.process.send_signal(signal.SIGINT)
        until(lambda: "waiting for nats" in platform.process.stdout.readline())  # type: ignore[union-attr]
        platform.process.send_signal(signal.SIGINT)
        assert platform.process.wait(timeout=2) == 0
    finally:
        stop(platform)
    assert "Server Exiting" not in (tmp_path / "data/nats/nats-server.log").read_text().splitlines()[-1]
    with running(tmp_path) as again:
        async with outside.client(again.nats, user=again.user, password=again.password) as connection:
            assert (await connection.jetstream().stream_info("EVENTS")).state.consumer_count >= SLOW_CONSUMERS


async def test_next_up_waits_for_the_nats_of_a_killed_one(tmp_path: Path) -> None:
    """kill -9 of `mayfly up` leaves a nats-server that still stops; the next `up` says so, waits, and starts."""
    platform = start(tmp_path / "data", tmp_path / "config")
    nats_pid = outside.pid_of(platform, "nats")
    await slow_to_stop(platform)
    outside.kill_9(platform.process.pid)
    platform.process.wait()
    assert platform.process.stdout is not None
    platform.process.stdout.close()
    with running(tmp_path) as again:
        assert f"waiting for the nats-server of the last run (process {nats_pid}) to stop" in again.banner
        assert {entry["name"] for entry in again.services()} == SERVICES
