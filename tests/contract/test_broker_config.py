"""The configuration of a server that one runs oneself: the checked-in files, and the command that makes them."""

import json
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from mayfly.launcher import ports
from mayfly_chassis.bus import Bus
from mayfly_chassis.errors import Unauthorized
from mayfly_proto import storage, subjects
from tests.contract.own_server import FOLDER, PASSWORDS, certificate, make_certificates, own_server


def _bootstrap(
    url: str, directory: Path, password: str, *flags: str, ca_file: Path | None = None
) -> "subprocess.CompletedProcess[str]":
    secret = directory / "password"
    secret.write_text(f"{password}\n")
    settings = {"MAYFLY_NATS_URL": url, "MAYFLY_NATS_PASSWORD_FILE": str(secret)}
    if ca_file is not None:
        settings["MAYFLY_NATS_CA_FILE"] = str(ca_file)
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


async def test_a_server_of_ones_own(tmp_path: Path) -> None:
    """The files start a server; `bootstrap` makes its buckets; roles have their passwords, and nobody else comes in."""
    with own_server(tmp_path, PASSWORDS) as address:
        url = f"nats://{address}"
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


async def test_a_cluster_of_ones_own(tmp_path: Path) -> None:
    """One file for all three servers, which find each other with password and certificate, and take TLS only;
    `bootstrap --replicas 3` uses them all."""
    names = [f"mayfly-{number}" for number in (1, 2, 3)]
    secrets = make_certificates(tmp_path, *(f"{name}=127.0.0.1" for name in names))
    routes = [ports.choose("127.0.0.1", 0, "") for _ in names]
    urls = ", ".join(f'"tls://server:secret-of-servers@127.0.0.1:{port}"' for port in routes)
    shared = {"MAYFLY_CLUSTER_PASSWORD": "secret-of-servers", "MAYFLY_ROUTES": f"[{urls}]"}
    with ExitStack() as stack:
        addresses = []
        for name, port in zip(names, routes, strict=True):
            own_names = {"MAYFLY_SERVER_NAME": name, "MAYFLY_SERVER_HOST": f"127.0.0.1:{port}"}
            environment = PASSWORDS | shared | certificate(secrets, name) | own_names
            listen = ("--cluster_listen", f"nats://127.0.0.1:{port}")
            own = own_server(tmp_path / name, environment, "nats-cluster.conf", *listen)
            addresses.append(f"tls://{stack.enter_context(own)}")
        url, ca_file = ",".join(addresses), secrets / "ca.crt"
        made = _bootstrap(url, tmp_path, PASSWORDS["MAYFLY_OPERATOR_PASSWORD"], "--replicas", "3", ca_file=ca_file)
        assert (made.returncode, made.stdout, made.stderr) == (0, "", "")
        operator = await Bus.connect(
            url, name="test", role="operator", user="operator", password="secret-of-operator", ca_file=ca_file
        )
        found = json.loads((await operator.request(subjects.stream_info(storage.EVENTS))).payload)
        assert len(found["cluster"]["replicas"]) == 2
        await operator.close()
    logs = [(tmp_path / name / "log").read_text() for name in names]
    assert not any("x509" in log for log in logs)  # they know each other by the right names


def test_an_empty_password_is_noticed(tmp_path: Path) -> None:
    """A variable that is set to nothing would leave a role open to anybody: `bootstrap` refuses such a server."""
    with own_server(tmp_path, PASSWORDS | {"MAYFLY_ROUTER_PASSWORD": ""}) as address:
        refused = _bootstrap(f"nats://{address}", tmp_path, PASSWORDS["MAYFLY_OPERATOR_PASSWORD"])
    assert refused.returncode == 1
    assert "router has an empty password: set MAYFLY_ROUTER_PASSWORD" in refused.stderr


def test_bootstrap_says_in_one_line_why_not(tmp_path: Path) -> None:
    """No server, no traceback: one line on stderr, and exit status 1."""
    failed = _bootstrap("nats://127.0.0.1:9", tmp_path, "x")
    assert failed.returncode == 1
    assert failed.stderr.startswith("mayfly_broker: nats://127.0.0.1:9: ")
    assert failed.stderr.count("\n") == 1
