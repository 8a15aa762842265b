"""The values for the NATS chart, made into a configuration by the two rules that the chart states for them."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import yaml

from mayfly_broker.config import plain_cluster
from mayfly_broker.server import binary
from tests.contract.own_server import FOLDER, PASSWORDS, ROOT, make_certificates

ENVIRONMENT = {
    "MAYFLY_SERVER_HOST": "nats-0.nats-headless",
    "MAYFLY_CLUSTER_PASSWORD": "secret-of-servers",
    "MAYFLY_ROUTES": '["tls://server:secret-of-servers@nats-0.nats-headless:6222"]',
}


def merged(folder: Path) -> dict[str, Any]:
    """What the chart makes by itself of such values, and what they change of it."""
    config = yaml.safe_load((ROOT / "deploy/kubernetes/nats-values.yaml").read_text())["config"]
    files = {"cert_file": str(folder / "server.crt"), "key_file": str(folder / "server.key")}
    ca_file = {"ca_file": str(folder / "ca.crt")}
    (routes,) = config["cluster"]["patch"]
    assert (routes["op"], routes["path"]) == ("replace", "/routes")
    cluster = {"port": 6222, "no_advertise": True, **config["cluster"]["merge"], "routes": routes["value"]}
    return {
        "server_name": "nats-0",
        "port": 4222,
        "http_port": 8222,
        "tls": files | config["nats"]["tls"]["merge"] | ca_file,
        "cluster": cluster | {"tls": files | config["cluster"]["tls"]["merge"] | ca_file},
        "jetstream": {"store_dir": str(folder), **config["jetstream"]["merge"]},
        **config["merge"],
    }


def written(config: dict[str, Any]) -> str:
    """Texts in << >> as they are, and $include as the server knows it."""
    text = re.sub(r'"\$include": "(.*)",?', r"include \1;", json.dumps(config, indent=1))
    return re.sub(r'"<<\s+(.*)\s+>>"', r"\1", text)


def test_the_server_takes_them(tmp_path: Path) -> None:
    """With every variable that they name, and the roles beside them; without a password it says which one."""
    folder = make_certificates(tmp_path)
    (tmp_path / "nats.conf").write_text(written(merged(folder)))
    (tmp_path / "roles.conf").write_text((FOLDER / "roles.conf").read_text())
    command = [binary(), "-t", "-c", tmp_path / "nats.conf"]
    subprocess.run(command, env=PASSWORDS | ENVIRONMENT, check=True, capture_output=True)
    lacking = subprocess.run(command, env=PASSWORDS, capture_output=True, text=True)
    assert lacking.returncode != 0
    assert "MAYFLY_" in lacking.stderr


def test_they_say_what_the_file_for_ones_own_servers_says(tmp_path: Path) -> None:
    """Limits and times are the same however the servers are run."""
    config = merged(make_certificates(tmp_path))
    own = dict(re.findall(r'^\s*(\w+): "?([\w./]+)"?$', plain_cluster(), re.M))
    for name in ("max_payload", "max_pending", "write_deadline", "ping_interval", "ping_max"):
        assert str(config[name]).strip("<> ") == own[name], name
    assert config["jetstream"]["sync_interval"] == own["sync_interval"]
    assert config["cluster"]["name"] == own["name"]
    assert config["cluster"]["tls"]["verify"] is True
