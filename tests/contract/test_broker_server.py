"""The embedded nats-server: what `mayfly up` and every test rely on."""

import json
import os
import signal
import stat
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from mayfly_broker.config import make_passwords
from mayfly_broker.server import EmbeddedServer, ServerError, StoreInUse
from mayfly_chassis.bus import Bus
from mayfly_chassis.errors import Unauthorized
from mayfly_proto import storage, subjects
from tests.conftest import Connect, Eventually

PARENT = """
import sys, time
from pathlib import Path
from mayfly_broker.server import EmbeddedServer
server = EmbeddedServer(Path(sys.argv[1]), passwords={"operator": "secret"}, anonymous=False)
server.start()
print(server.pid, flush=True)
time.sleep(60)
"""


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
async def test_no_server_outlives_its_parent(tmp_path: Path, eventually: Eventually, how: signal.Signals) -> None:
    """The server ends with the process that started it, whatever ended that."""
    with subprocess.Popen([sys.executable, "-c", PARENT, tmp_path / "nats"], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert _alive(pid)
        parent.send_signal(how)
        await eventually(lambda: not _alive(pid))


def test_no_two_servers_share_a_store(server: EmbeddedServer) -> None:
    """A second server on the same directory is an error that names the directory and the first one's process."""
    second = EmbeddedServer(server.store, passwords=make_passwords())
    with pytest.raises(StoreInUse, match=rf"{server.store} .*process {server.pid}\b"):
        second.start()


async def test_the_lock_is_the_servers_not_its_starters(tmp_path: Path, eventually: Eventually) -> None:
    """While the server of a killed parent still ends, its store stays locked; then it is free."""
    store = tmp_path / "nats"
    with subprocess.Popen([sys.executable, "-c", PARENT, store], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        os.kill(pid, signal.SIGSTOP)
        parent.kill()
        parent.wait()
        successor = EmbeddedServer(store, passwords=make_passwords())
        try:
            with pytest.raises(StoreInUse):
                successor.start()
        finally:
            os.kill(pid, signal.SIGCONT)
        await eventually(lambda: not _alive(pid))

    def started() -> bool:  # a process that looks dead may have threads left, which hold its files for a moment
        try:
            successor.start()
        except StoreInUse:
            return False
        return True

    await eventually(started)
    successor.stop()


async def test_data_and_port_survive_a_kill(server: EmbeddedServer, connect: Connect, eventually: Eventually) -> None:
    """Started again after a kill -9, the server has its port and every acknowledged write."""
    bus = await connect("operator")
    url = server.url
    await bus.request(subjects.kv(storage.FUNCTIONS, "hello"), b"acknowledged")
    server.kill()
    assert not server.running
    server.start()
    assert server.url == url
    await eventually(lambda: bus.reconnects == 1)
    reply = await bus.request(
        subjects.direct_get_last(subjects.kv_stream(storage.FUNCTIONS), subjects.kv(storage.FUNCTIONS, "hello"))
    )
    assert reply.payload == b"acknowledged"


def test_secrets_are_private(server: EmbeddedServer) -> None:
    """The file with the passwords can be read by its owner only, and so can the store."""
    conf = server.store / "run" / "nats-server.conf"
    assert server.passwords["operator"] in conf.read_text()
    assert stat.S_IMODE(conf.stat().st_mode) == 0o600
    assert stat.S_IMODE(server.store.stat().st_mode) == 0o700


async def test_a_wrong_password_is_refused(server: EmbeddedServer) -> None:
    """No role can be had without its password."""
    for password in ("wrong", ""):
        with pytest.raises(Unauthorized):
            await Bus.connect(server.url, name="x", role="operator", user="operator", password=password)


async def test_anonymous_connections_are_an_option(tmp_path: Path) -> None:
    """With ``anonymous=False`` a connection without credentials is refused."""
    with (
        EmbeddedServer(tmp_path / "nats", passwords=make_passwords(), anonymous=False) as server,
        pytest.raises(Unauthorized),
    ):
        await Bus.connect(server.url, name="x", role="client")


def test_a_taken_port_is_said(server: EmbeddedServer, tmp_path: Path) -> None:
    """A server that cannot start raises the server's own last words, and leaves nothing behind."""
    other = EmbeddedServer(tmp_path / "other", passwords=make_passwords(), port=server.port)
    with pytest.raises(ServerError, match="address already in use"):
        other.start()
    assert not other.running
    other.port = 0
    with other:
        assert other.running


def test_stop_is_repeatable(server: EmbeddedServer) -> None:
    """Stopping or killing what does not run is nothing."""
    server.stop()
    server.stop()
    server.kill()
    assert not server.running


def test_monitoring_is_on_loopback(server: EmbeddedServer) -> None:
    """The monitoring page answers, with the limits that Mayfly asks for."""
    assert server.monitoring_url.startswith("http://127.0.0.1:")
    with urllib.request.urlopen(f"{server.monitoring_url}/varz", timeout=5) as page:
        settings = json.load(page)
    assert settings["max_payload"] == 8 * 1024 * 1024
    assert settings["max_pending"] == 64 * 1024 * 1024
    assert settings["ping_interval"] == 10_000_000_000
    assert settings["write_deadline"] == 10_000_000_000
    assert settings["jetstream"]["config"]["sync_interval"] == 5_000_000_000
    assert settings.get("max_subscriptions", 0) == 0


async def test_a_lost_client_is_told_of(server: EmbeddedServer, connect: Connect, eventually: Eventually) -> None:
    """Routers see the disconnect event of any connection, with user, client and server id, at once."""
    router = await connect("router")
    events: list[bytes] = []
    await router.subscribe(subjects.DISCONNECT, lambda _subject, _reply, _headers, payload: events.append(payload))
    await router.flush()
    worker = await connect("worker")
    identity = worker.identity
    await worker.close()
    await eventually(lambda: events)
    event = json.loads(events[0])
    assert event["client"]["user"] == "worker"
    assert event["client"]["id"] == identity.id
    assert event["server"]["id"] == identity.server
