"""compose.yaml and Dockerfile: what can be known of them without a Docker engine."""

import json
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from mayfly_activator.config import ActivatorConfig
from mayfly_broker.roles import ROLES
from mayfly_chassis.config import ServiceConfig
from mayfly_gateway.config import GatewayConfig
from mayfly_registry.config import RegistryConfig
from mayfly_router.config import RouterConfig
from mayfly_scaler.config import ScalerConfig
from mayfly_worker.config import WorkerConfig

ROOT = Path(__file__).parents[2]
CONFIGS: dict[str, type[BaseModel]] = {
    "registry": RegistryConfig,
    "router": RouterConfig,
    "activator": ActivatorConfig,
    "scaler": ScalerConfig,
    "worker": WorkerConfig,
    "gateway": GatewayConfig,
}
SERVERS = ("nats-1", "nats-2", "nats-3")
COPIES = {"router": 2, "scaler": 2, "worker": 2}  # of which there is more than one


@pytest.fixture(scope="module")
def compose() -> Any:
    return yaml.safe_load((ROOT / "compose.yaml").read_text())


@pytest.fixture(scope="module")
def scaling() -> Any:
    return yaml.safe_load((ROOT / "compose.scaling.yaml").read_text())


def services(compose: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Role and definition of each that is neither NATS nor its bootstrap."""
    for name, service in compose["services"].items():
        if name not in (*SERVERS, "bootstrap"):
            yield re.sub(r"-\d+$", "", name), service


def test_compose_has_all_that_a_failure_needs(compose: Any) -> None:
    """Three NATS servers, two of what would be missed at once, and everything else; each runs its own module."""
    assert set(SERVERS) < set(compose["services"])
    roles = [role for role, _ in services(compose)]
    assert {role: roles.count(role) for role in roles} == {role: COPIES.get(role, 1) for role in CONFIGS}
    for role, service in services(compose):
        own = ["worker"] if role == "worker" else ["python", "-m", f"mayfly_{role}"]
        assert service["command"] == own
    assert (ROOT / "deploy/worker").read_text().endswith("exec python -m mayfly_worker\n")


def test_compose_names_no_two_the_same(compose: Any) -> None:
    """Of two routers or workers with one name, the older would go; two such scalers would both think that they lead."""
    for variable in ("MAYFLY_ROUTER_NAME", "MAYFLY_WORKER_NODE", "MAYFLY_SCALER_NAME"):
        names = [service["environment"].get(variable) for _, service in services(compose)]
        given = [name for name in names if name]
        assert len(set(given)) == len(given) == 2


def test_compose_gives_each_time_to_stop(compose: Any) -> None:
    """Docker kills what has not ended after ten seconds: nats-server takes a minute for 6,000 durable consumers, a
    worker as long as it may let calls finish."""
    for server in SERVERS:
        assert compose["services"][server]["stop_grace_period"] == "10m"
    limits = WorkerConfig()
    for role, service in services(compose):
        needed = limits.cordon_limit_s + limits.drain_limit_s + 10 if role == "worker" else 40
        assert int(service["stop_grace_period"].removesuffix("s")) >= needed, role


def test_compose_sets_only_what_the_service_reads(compose: Any) -> None:
    """A misspelt variable would be ignored in silence: each is a field of the service's config."""
    for role, service in [*services(compose), ("broker", compose["services"]["bootstrap"])]:
        fields = {field.upper() for field in CONFIGS.get(role, ServiceConfig).model_fields}
        for variable in service["environment"]:
            assert variable.removeprefix("MAYFLY_").removeprefix(f"{role.upper()}_") in fields, variable


def test_compose_gives_each_service_its_own_credentials_only(compose: Any) -> None:
    """Least privilege: a service's NATS user is its own role, and it sees no other's password, nor a server's key."""
    for role, service in services(compose):
        assert service["environment"]["MAYFLY_NATS_USER"] == role
        assert service["environment"]["MAYFLY_NATS_PASSWORD_FILE"] == f"/run/secrets/{role}"
        assert set(service["secrets"]) == {role, "ca.crt", *(["token"] if role == "gateway" else [])}
    for server in SERVERS:
        own = {f"{server}.crt", f"{server}.key"}
        assert set(compose["services"][server]["secrets"]) == {*ROLES, "cluster", "ca.crt", *own}
    assert "ca.key" not in compose["secrets"]
    assert all(secret["file"] == f"./secrets/{name}" for name, secret in compose["secrets"].items())


def test_scaling_changes_the_scalers_only(compose: Any, scaling: Any) -> None:
    """Both of them, alike. Who has the engine's socket is root on the machine: they have it by its group, and keep what
    compose.yaml takes away from all."""
    assert set(scaling["services"]) == {name for name in compose["services"] if name.startswith("scaler")}
    assert {key for key in scaling if not key.startswith("x-")} == {"services"}
    for service in scaling["services"].values():
        assert set(service) == {"group_add", "volumes", "environment"}
        (group,) = service["group_add"]
        assert group.startswith("${MAYFLY_DOCKER_GROUP:?")
        (socket_volume, template) = service["volumes"]
        assert socket_volume.startswith("${MAYFLY_DOCKER_SOCKET:?")
        assert socket_volume.endswith(f":{ScalerConfig().docker_socket}")
        assert template == f"./worker-container.json:{service['environment']['MAYFLY_SCALER_DOCKER_CONTAINER']}:ro"


def test_scaling_sets_only_what_a_scaler_reads(scaling: Any) -> None:
    """Each is a field of its config, with a value that it takes; those without a value are for the user to set."""
    for service in scaling["services"].values():
        values = {}
        for variable, value in service["environment"].items():
            field = variable.removeprefix("MAYFLY_SCALER_").lower()
            assert field in ScalerConfig.model_fields, variable
            if value is not None:
                values[field] = re.sub(r"\$\{\w+(?::-([^}]*)|[^}]*)\}", lambda found: found[1] or "mayfly", str(value))
        config = ScalerConfig.model_validate({**values, "docker_container": None})
        assert (config.provider, config.docker_network, config.docker_project) == ("docker", "mayfly_default", "mayfly")


def test_scaling_gives_no_node_a_name_that_is_taken(compose: Any, scaling: Any) -> None:
    """Of two workers with one name the older would go: the scaler's names begin above those in compose.yaml, whether
    these have joined or not."""
    by_hand = [service["environment"]["MAYFLY_WORKER_NODE"] for role, service in services(compose) if role == "worker"]
    for service in scaling["services"].values():
        assert by_hand == [f"n{n}" for n in range(1, service["environment"]["MAYFLY_SCALER_DOCKER_FIRST"])]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """With secrets, and with a socket that could be an engine's."""
    subprocess.run([ROOT / "deploy/make-secrets"], cwd=tmp_path, check=True)
    with socket.socket(socket.AF_UNIX) as engine:
        engine.bind(str(tmp_path / "engine"))
        yield tmp_path


def make_scaling(folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    environ = {"PATH": "/usr/bin:/bin", "DOCKER_HOST": f"unix://{folder}/engine", **environ}
    return subprocess.run([ROOT / "deploy/make-scaling"], cwd=folder, env=environ, capture_output=True, text=True)


def test_make_scaling_makes_composes_worker(compose: Any, folder: Path) -> None:
    """In the engine's words all that compose.yaml says of one, but for what is the scaler's to say."""
    assert make_scaling(folder).returncode == 0
    made = json.loads((folder / "worker-container.json").read_text())
    host, worker = made["HostConfig"], compose["services"]["worker-1"]
    assert (made["Cmd"], made["User"]) == (worker["command"], worker["user"])
    assert f"{made['StopTimeout']}s" == worker["stop_grace_period"]
    assert made["Healthcheck"] == {"Test": worker["healthcheck"]["test"], "Interval": 2 * 10**9, "Retries": 30}
    assert (worker["healthcheck"]["interval"], worker["healthcheck"]["retries"]) == ("2s", 30)
    assert (host["CapDrop"], host["CapAdd"]) == (worker["cap_drop"], worker["cap_add"])
    assert (host["SecurityOpt"], host["ReadonlyRootfs"]) == (worker["security_opt"], worker["read_only"])
    assert {"driver": host["LogConfig"]["Type"], "options": host["LogConfig"]["Config"]} == worker["logging"]
    assert list(host["Tmpfs"]) == worker["tmpfs"]
    secrets = [(f"{folder}/secrets/{name}", f"/run/secrets/{name}") for name in worker["secrets"]]
    *mounts, volume = host["Mounts"]
    assert mounts == [{"Type": "bind", "Source": s, "Target": t, "ReadOnly": True} for s, t in secrets]
    assert volume == {"Type": "volume", "Target": worker["volumes"][0].partition(":")[2]}
    scalers = {"MAYFLY_NATS_URL", "MAYFLY_WORKER_NODE", "MAYFLY_WORKER_MEMORY_MB"}
    expected = {name: value for name, value in worker["environment"].items() if name not in scalers}
    assert dict(each.split("=", 1) for each in made["Env"]) == expected


def test_make_scaling_finds_the_socket_and_its_group(folder: Path) -> None:
    """Each once, however often it is run, and beside what others have written into the file."""
    (folder / ".env").write_text("MAYFLY_HTTP_PORT=80\nMAYFLY_DOCKER_GROUP=7\n")
    for _ in range(2):
        assert make_scaling(folder).returncode == 0
    assert (folder / ".env").read_text().splitlines() == [
        "MAYFLY_HTTP_PORT=80",
        f"MAYFLY_DOCKER_SOCKET={folder}/engine",
        f"MAYFLY_DOCKER_GROUP={(folder / 'engine').stat().st_gid}",
    ]


@pytest.mark.parametrize(
    ("host", "without", "complaint"),
    [
        ("tcp://elsewhere:2376", "", "has to be on this machine"),
        ("unix:///nowhere", "", "no Docker engine at /nowhere"),
        ("", "secrets/worker", "run deploy/make-secrets first"),
    ],
)
def test_make_scaling_says_what_is_missing(folder: Path, host: str, without: str, complaint: str) -> None:
    """And leaves nothing half made."""
    if without:
        (folder / without).unlink()
    done = make_scaling(folder, **({"DOCKER_HOST": host} if host else {}))
    assert done.returncode == 1
    assert complaint in done.stderr
    assert not (folder / "worker-container.json").exists()


def test_compose_lets_nobody_reach_nats_without_tls(compose: Any) -> None:
    """Every address is one of TLS to a server that there is, with the authority's certificate beside it."""
    addresses = {f"tls://{server}:4222" for server in SERVERS}
    for name, service in compose["services"].items():
        if name not in SERVERS:
            assert set(service["environment"]["MAYFLY_NATS_URL"].split(",")) == addresses
            assert service["environment"]["MAYFLY_NATS_CA_FILE"] == "/run/secrets/ca.crt"


def test_compose_publishes_on_loopback_only(compose: Any) -> None:
    """What is reachable from other machines is for the operator to decide."""
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert len(ports) == 2
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_compose_keeps_functions_from_the_platforms_ports(compose: Any) -> None:
    """Registry and worker refuse them alike: NATS, its monitoring, health, the gateway."""
    for service in ("registry", "worker-1", "worker-2"):
        environment = compose["services"][service]["environment"]
        (ports,) = [value for name, value in environment.items() if name.endswith("_PLATFORM_PORTS")]
        assert set(ports.split(",")) == {"4222", "6222", "8222", "8081", "8080"}


def test_compose_takes_away_what_nobody_needs(compose: Any) -> None:
    """No capability, no way to get one, no file to write but in a volume; the worker alone has some, and is root."""
    for name, service in compose["services"].items():
        assert service["cap_drop"] == ["ALL"]
        assert service["read_only"] is True
        assert "no-new-privileges:true" in service["security_opt"]
        assert ("user" in service or "cap_add" in service) == name.startswith("worker")


def verified(folder: Path, server: str) -> bool:
    verify = ["openssl", "verify", "-x509_strict", "-CAfile", folder / "ca.crt", folder / f"{server}.crt"]
    return subprocess.run(verify, capture_output=True).returncode == 0


def secrets_of(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in (folder / "secrets").iterdir()}


def test_make_secrets_makes_each_secret_once_and_privately(compose: Any, tmp_path: Path) -> None:
    """Every secret that compose names is made and kept by a second run. Nobody else gets into the folder; the
    authority's key is for its owner alone even there."""
    for _ in range(2):
        subprocess.run([ROOT / "deploy/make-secrets"], cwd=tmp_path, check=True)
        made = secrets_of(tmp_path)
    assert set(compose["secrets"]) <= set(made)
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "secrets/ca.key").stat().st_mode & 0o777 == 0o600
    assert len(set(made.values())) == len(made)
    assert all(re.fullmatch(r"s[0-9a-f]{48}\n", made[name]) for name in (*ROLES, "cluster", "token"))


def test_make_secrets_renews_what_is_deleted(tmp_path: Path) -> None:
    """A server's certificate that has run out is deleted and made anew, by the same authority; all else stays."""
    folder = tmp_path / "secrets"
    subprocess.run([ROOT / "deploy/make-secrets"], cwd=tmp_path, check=True)
    before = secrets_of(tmp_path)
    (folder / "nats-2.crt").unlink()
    subprocess.run([ROOT / "deploy/make-secrets"], cwd=tmp_path, check=True)
    after = secrets_of(tmp_path)
    assert {name for name in before if after[name] != before[name]} == {"nats-2.crt", "nats-2.key"}
    assert verified(folder, "nats-2")


def test_make_secrets_keeps_an_authority_whose_key_is_elsewhere(tmp_path: Path) -> None:
    """Nobody who has the old certificates would trust a new one. What needs no signature is made."""
    subprocess.run([ROOT / "deploy/make-secrets"], cwd=tmp_path, check=True)
    (tmp_path / "secrets/ca.key").unlink()
    before = secrets_of(tmp_path)
    (tmp_path / "secrets/worker").unlink()
    subprocess.run([ROOT / "deploy/make-secrets"], cwd=tmp_path, check=True)
    after = secrets_of(tmp_path)
    assert {name for name in before | after if after.get(name) != before.get(name)} == {"worker"}


def test_make_secrets_signs_nothing_without_the_key(tmp_path: Path) -> None:
    """A server's certificate that is to be renewed: what is missing is said, and nothing is changed, nor half made."""
    subprocess.run([ROOT / "deploy/make-secrets"], cwd=tmp_path, check=True)
    for name in ("ca.key", "nats-2.crt", "worker"):
        (tmp_path / "secrets" / name).unlink()
    before = secrets_of(tmp_path)
    done = subprocess.run([ROOT / "deploy/make-secrets"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith(
        "make-secrets: nats-2 needs a certificate, and the key to sign it, secrets/ca.key, is not"
    )
    assert secrets_of(tmp_path) == before


def test_make_secrets_makes_a_lost_certificate_of_the_authority_anew(tmp_path: Path) -> None:
    """With the key that it has: the servers' certificates are still good."""
    subprocess.run([ROOT / "deploy/make-secrets"], cwd=tmp_path, check=True)
    before = secrets_of(tmp_path)
    (tmp_path / "secrets/ca.crt").unlink()
    subprocess.run([ROOT / "deploy/make-secrets"], cwd=tmp_path, check=True)
    after = secrets_of(tmp_path)
    assert {name for name in before if after[name] != before[name]} == {"ca.crt"}
    assert verified(tmp_path / "secrets", "nats-2")


def test_dockerfile_copies_what_exists_and_is_well_formed() -> None:
    """Every instruction is one that Docker knows, and every file it copies from here is there and gets there."""
    known = {"ARG", "FROM", "WORKDIR", "COPY", "RUN", "ENV", "USER", "CMD"}
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    for line in filter(None, (line.strip() for line in text.splitlines())):
        if line.startswith("#"):
            continue
        instruction, rest = line.split(None, 1)
        assert instruction in known, line
        if instruction == "COPY" and not rest.startswith("--from"):
            for source in rest.split()[:-1]:
                assert source == "wheel[s]" or (ROOT / source).exists(), source
                assert source == "wheel[s]" or f"!{source}" in ignored, source
