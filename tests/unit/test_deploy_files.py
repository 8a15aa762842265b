"""compose.yaml and Dockerfile: what can be known of them without a Docker engine."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from mayfly_activator.config import ActivatorConfig
from mayfly_broker.roles import ROLES
from mayfly_gateway.config import GatewayConfig
from mayfly_registry.config import RegistryConfig
from mayfly_router.config import RouterConfig
from mayfly_worker.config import WorkerConfig

ROOT = Path(__file__).parents[2]
CONFIGS: dict[str, type[BaseModel]] = {
    "registry": RegistryConfig,
    "router": RouterConfig,
    "activator": ActivatorConfig,
    "worker": WorkerConfig,
    "gateway": GatewayConfig,
}


@pytest.fixture(scope="module")
def compose() -> Any:
    return yaml.safe_load((ROOT / "compose.yaml").read_text())


def test_compose_has_one_nats_and_one_of_each_service(compose: Any) -> None:
    """The whole platform is there, and each service runs the module that its folder holds."""
    assert set(compose["services"]) == {"nats", "bootstrap", *CONFIGS}
    for name in CONFIGS:
        assert compose["services"][name]["command"] == ["python", "-m", f"mayfly_{name}"]


def test_compose_gives_nats_time_to_stop(compose: Any) -> None:
    """Docker kills what has not ended after ten seconds; nats-server takes a minute for 6,000 durable consumers."""
    assert compose["services"]["nats"]["stop_grace_period"] == "10m"


@pytest.mark.parametrize("service", CONFIGS)
def test_compose_sets_only_what_the_service_reads(compose: Any, service: str) -> None:
    """A misspelt variable would be ignored in silence: each is a field of the service's config."""
    fields = {field.upper() for field in CONFIGS[service].model_fields}
    for variable in compose["services"][service]["environment"]:
        field = variable.removeprefix("MAYFLY_").removeprefix(f"{service.upper()}_")
        assert field in fields, variable


def test_compose_gives_each_service_its_own_credentials_only(compose: Any) -> None:
    """Least privilege: a service's NATS user is its own role, and it sees no other's password."""
    for name in CONFIGS:
        service = compose["services"][name]
        assert service["environment"]["MAYFLY_NATS_USER"] == name
        assert service["environment"]["MAYFLY_NATS_PASSWORD_FILE"] == f"/run/secrets/{name}"
        assert set(service["secrets"]) <= {name, "token"}
    assert set(compose["secrets"]) == {*ROLES, "token"}


def test_make_secrets_makes_each_secret_once_and_privately(compose: Any, tmp_path: Path) -> None:
    """Every secret that compose names is made and kept by a second run. Nobody else gets into the folder; the
    authority's key is for its owner alone even there."""
    for _ in range(2):
        subprocess.run([ROOT / "deploy/make-secrets"], cwd=tmp_path, check=True)
        made = {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}
    assert set(compose["secrets"]) <= set(made)
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "secrets/ca.key").stat().st_mode & 0o777 == 0o600
    assert len(set(made.values())) == len(made)
    assert all(re.fullmatch(r"s[0-9a-f]{48}\n", made[name]) for name in (*ROLES, "cluster", "token"))


def test_make_secrets_renews_what_is_deleted(tmp_path: Path) -> None:
    """A server's certificate that has run out is deleted and made anew, by the same authority; all else stays."""
    folder = tmp_path / "secrets"
    subprocess.run([ROOT / "deploy/make-secrets"], cwd=tmp_path, check=True)
    before = {path.name: path.read_text() for path in folder.iterdir()}
    (folder / "nats-2.crt").unlink()
    subprocess.run([ROOT / "deploy/make-secrets"], cwd=tmp_path, check=True)
    after = {path.name: path.read_text() for path in folder.iterdir()}
    assert {name for name in before if after[name] != before[name]} == {"nats-2.crt", "nats-2.key"}
    verify = ["openssl", "verify", "-x509_strict", "-CAfile", folder / "ca.crt", folder / "nats-2.crt"]
    subprocess.run(verify, check=True, capture_output=True)


def test_dockerfile_copies_what_exists_and_is_well_formed() -> None:
    """Every instruction is one that Docker knows, and every file it copies from here is there."""
    known = {"FROM", "WORKDIR", "COPY", "RUN", "ENV", "USER", "CMD"}
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    for line in filter(None, (line.strip() for line in text.splitlines())):
        if line.startswith("#"):
            continue
        instruction, rest = line.split(None, 1)
        assert instruction in known, line
        if instruction == "COPY" and not rest.startswith("--from"):
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists(), source
