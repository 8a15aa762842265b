"""A nats-server as one runs it oneself: on the checked-in files, with secrets from ``deploy/make-secrets``."""

import ctypes
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from mayfly_broker.config import password_variable
from mayfly_broker.roles import ROLES
from mayfly_broker.server import binary

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "broker_config"
PASSWORDS = {password_variable(role): f"secret-of-{role}" for role in ROLES}
START_TIMEOUT_S = 10

_PR_SET_PDEATHSIG = 1


def make_certificates(folder: Path, *servers: str) -> Path:
    """``NAME=HOST,...`` for each server, or nothing for one that is this machine's loopback. Returns where they lie."""
    folder.mkdir(parents=True, exist_ok=True)
    servers = servers or ("server=localhost,127.0.0.1",)
    subprocess.run([ROOT / "deploy/make-secrets", *servers], cwd=folder, check=True)
    return folder / "secrets"


def certificate(secrets: Path, server: str = "server") -> dict[str, str]:
    """What nats-cluster.conf reads from the environment."""
    return {
        "MAYFLY_TLS_CERT": str(secrets / f"{server}.crt"),
        "MAYFLY_TLS_KEY": str(secrets / f"{server}.key"),
        "MAYFLY_TLS_CA": str(secrets / "ca.crt"),
    }


def alone(port: int, secrets: Path) -> dict[str, str]:
    """The rest of what nats-cluster.conf reads, for a cluster of one."""
    return certificate(secrets) | {
        "MAYFLY_SERVER_NAME": "alone",
        "MAYFLY_SERVER_HOST": "127.0.0.1",
        "MAYFLY_CLUSTER_PASSWORD": "secret-of-servers",
        "MAYFLY_ROUTES": f'["tls://server:secret-of-servers@127.0.0.1:{port}"]',
    }


@contextmanager
def own_server(
    directory: Path, environment: Mapping[str, str], file: str = "nats-server.conf", *flags: str
) -> Iterator[str]:
    """Gives the address, as ``127.0.0.1:PORT``. Only ports and store are other ones than the file says."""
    directory.mkdir(exist_ok=True)
    shutil.copy(FOLDER / "roles.conf", directory)
    text = (FOLDER / file).read_text()
    assert text.count('"/data/jetstream"') == 1
    (directory / file).write_text(text.replace("/data/jetstream", f"{directory}/store"))
    command: list[str | Path] = [binary(), "-c", directory / file, "--ports_file_dir", directory]
    command += ["-a", "127.0.0.1", "-p", "-1", "-m", "-1", *flags]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            command, env={**os.environ, **environment}, stdout=log, stderr=log, preexec_fn=_end_with_this_thread
        )
    try:
        yield _address(directory, process)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(10)


def _end_with_this_thread() -> None:
    """pytest ends a test that takes too long by ending the process, in which no ``finally`` runs."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _address(directory: Path, process: "subprocess.Popen[bytes]") -> str:
    ports = directory / f"nats-server_{process.pid}.ports"
    deadline = time.monotonic() + START_TIMEOUT_S
    while not (ports.exists() and ports.read_text().endswith("}")):
        assert process.poll() is None and time.monotonic() < deadline, (directory / "log").read_text()
        time.sleep(0.005)
    url: str = json.loads(ports.read_text())["nats"][0]
    return url.partition("://")[2]
