"""The configuration of a server that one runs oneself: the checked-in files, and the command that makes them."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from mayfly.launcher import ports
from mayfly_broker.config import password_variable
from mayfly_broker.roles import ROLES
from mayfly_broker.server import binary
from mayfly_chassis.bus import Bus
from mayfly_chassis.errors import Unauthorized
from mayfly_proto import storage, subjects
from tests.conftest import Eventually

FOLDER = Path(__file__).parents[2] / "broker_config"
PASSWORDS = {password_variable(role): f"secret-of-{role}" for role in ROLES}


@contextmanager
def own_server(
    directory: Path, passwords: dict[str, str], file: str = "nats-server.conf", *flags: str
) -> Iterator[subprocess.Popen[bytes]]:
    """nats-server on the checked-in files; only ports and store are other ones."""
    directory.mkdir(exist_ok=True)
    shutil.copy(FOLDER / "roles.conf", directory)
    text = (FOLDER / file).read_text()
    assert text.count('"/data/jetstream"') == 1
    (directory / file).write_text(text.replace("/data/jetstream", f"{directory}/store"))
    command: list[str | Path] = [binary(), "-c", directory / file, "--ports_file_dir", directory]
    command += ["-a", "127.0.0.1", "-p", "-1", "-m", "-1", *flags]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(command, env=os.environ | passwords, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(10)


async def _url(directory: Path, process: subprocess.Popen[bytes], eventually: Eventually) -> str:
    ports = directory / f"nats-server_{process.pid}.ports"
    await eventually(lambda: ports.exists() and ports.read_text().endswith("}"))
    url: str = json.loads(ports.read_text())["nats"][0]
    return url


def _bootstrap(url: str, directory: Path, password: str, *flags: str) -> "subprocess.CompletedProcess[str]":
    secret = directory / "password"
    secret.write_text(f"{password}\n")
    settings = {"MAYFLY_NATS_URL": url, "MAYFLY_NATS_PASSWORD_FILE": str(secret)}
    return subprocess.run(
        [sys.executable, "-m", "mayfly_broker", "bootstrap", *flags],
        env=os.environ | settings,
        capture_output=True,
        text=True,
        timeout=30,
    )


@pytest.mark.parametrize(
    ("command", "file"),
    [("config", "nats-server.conf"), ("cluster", "nats-cluster.conf"), ("roles", "roles.conf")],
)
def test_the_files_are_what_the_command_prints(command: str, file: str) -> None:
    """A change of the roles is a change of the files that operators use; make them anew by this command."""
    made = subprocess.run([sys.executable, "-m", "mayfly_broker", command], check=True, capture_output=True, text=True)
    assert made.stdout == (FOLDER / file).read_text(), f"python -m mayfly_broker {command} > broker_config/{file}"


def test_what_is_granted_is_in_no_role(tmp_path: Path) -> None:
    """`roles --access` gives router and worker the user's subjects and buckets; a wrong file is said in one line."""
    file = tmp_path / "access.toml"
    file.write_text('trigger_subjects = ["sensors.>"]\nkv_buckets = ["carts"]\n')
    command = [sys.executable, "-m", "mayfly_broker", "roles", "--access", str(file)]
    made = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "sensors.>" in made.stdout
    assert subjects.kv("carts", ">") in made.stdout
    file.write_text('trigger_subjects = ["event.>"]\n')
    refused = subprocess.run(command, capture_output=True, text=True)
    assert refused.returncode == 1
    assert "trigger_subjects" in refused.stderr
    file.unlink()
    assert subprocess.run(command, capture_output=True, text=True).returncode == 2


async def test_a_server_of_ones_own(tmp_path: Path, eventually: Eventually) -> None:
    """The files start a server; `bootstrap` makes its buckets; roles have their passwords, and nobody else comes in."""
    with own_server(tmp_path, PASSWORDS) as process:
        url = await _url(tmp_path, process, eventually)
        made = _bootstrap(url, tmp_path, PASSWORDS["MAYFLY_OPERATOR_PASSWORD"])
        assert (made.returncode, made.stdout, made.stderr) == (0, "", "")

        worker = await Bus.connect(url, name="test", role="worker", user="worker", password="secret-of-worker")
        bucket = subjects.kv_stream(storage.ROUTES)
        await worker.request(subjects.kv(storage.ROUTES, "n1.1.hello"), b"{}")
        reply = await worker.request(subjects.direct_get_last(bucket, subjects.kv(storage.ROUTES, "n1.1.hello")))
        assert reply.payload == b"{}"
        await worker.close()

        with pytest.raises(Unauthorized):
            await Bus.connect(url, name="test", role="client")


async def test_a_cluster_of_ones_own(tmp_path: Path, eventually: Eventually) -> None:
    """One file for all three servers, which find each other with a password; `bootstrap --replicas 3` uses them all."""
    routes = [ports.choose("127.0.0.1", 0, "") for _ in range(3)]
    urls = ", ".join(f'"nats://server:secret-of-servers@127.0.0.1:{port}"' for port in routes)
    shared = {"MAYFLY_CLUSTER_PASSWORD": "secret-of-servers", "MAYFLY_ROUTES": f"[{urls}]"}
    with ExitStack() as stack:
        addresses = []
        for number, port in enumerate(routes, 1):
            folder, named = tmp_path / f"{number}", {"MAYFLY_SERVER_NAME": f"mayfly-{number}"}
            listen = ("--cluster_listen", f"nats://127.0.0.1:{port}")
            own = own_server(folder, PASSWORDS | shared | named, "nats-cluster.conf", *listen)
            addresses.append(await _url(folder, stack.enter_context(own), eventually))
        url = ",".join(addresses)
        made = _bootstrap(url, tmp_path, PASSWORDS["MAYFLY_OPERATOR_PASSWORD"], "--replicas", "3")
        assert (made.returncode, made.stdout, made.stderr) == (0, "", "")
        operator = await Bus.connect(url, name="test", role="operator", user="operator", password="secret-of-operator")
        found = json.loads((await operator.request(subjects.stream_info(storage.EVENTS))).payload)
        assert len(found["cluster"]["replicas"]) == 2
        await operator.close()


async def test_an_empty_password_is_noticed(tmp_path: Path, eventually: Eventually) -> None:
    """A variable that is set to nothing would leave a role open to anybody: `bootstrap` refuses such a server."""
    with own_server(tmp_path, PASSWORDS | {"MAYFLY_ROUTER_PASSWORD": ""}) as process:
        url = await _url(tmp_path, process, eventually)
        refused = _bootstrap(url, tmp_path, PASSWORDS["MAYFLY_OPERATOR_PASSWORD"])
    assert refused.returncode == 1
    assert "router has an empty password: set MAYFLY_ROUTER_PASSWORD" in refused.stderr


def test_bootstrap_says_in_one_line_why_not(tmp_path: Path) -> None:
    """No server, no traceback: one line on stderr, and exit status 1."""
    failed = _bootstrap("nats://127.0.0.1:9", tmp_path, "x")
    assert failed.returncode == 1
    assert failed.stderr.startswith("mayfly_broker: nats://127.0.0.1:9: ")
    assert failed.stderr.count("\n") == 1
