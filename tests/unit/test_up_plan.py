"""What `mayfly up` decides: which processes, with which settings, on which ports, and when to start one again."""

import json
import socket
import stat
from pathlib import Path

import pytest

from mayfly import platform_file
from mayfly.launcher import nats_context, plan, ports, supervisor
from mayfly.launcher.directory import DataDirectory, InUse
from mayfly.launcher.log_file import LogFile, tail
from mayfly.platform_file import Platform, PlatformNotFound, Process


def options(data: Path, **changes: object) -> plan.Options:
    defaults = {"host": "127.0.0.1", "port": 8080, "nats_port": 4222, "nodes": 1}
    rest = {"node_memory_mb": None, "secure": False, "verbose": False}
    return plan.Options(data=data, **{**defaults, **rest, **changes})  # type: ignore[arg-type]


@pytest.fixture
def directory(tmp_path: Path) -> DataDirectory:
    directory = DataDirectory(tmp_path / "data")
    with directory.locked():
        pass
    return directory


def planned(directory: DataDirectory, environ: dict[str, str] | None = None, **changes: object) -> plan.Plan:
    given = options(directory.path, **changes)
    return plan.plan(given, directory, nats_url="nats://127.0.0.1:1", machine_memory_mb=10_000, environ=environ or {})


def specs(directory: DataDirectory, **changes: object) -> list[plan.Spec]:
    made = planned(directory, **changes)
    return [*made.services(), made.scaler()]


def test_every_service_starts_and_stops(directory: DataDirectory) -> None:
    """A service that is in no stage of the stop order would outlive the platform."""
    started = {spec.service for spec in specs(directory)}
    assert started | {plan.NATS} == {name for stage in plan.STOP_ORDER for name in stage}
    assert started == {"gateway", "registry", "router", "activator", "worker", "scaler"}


def test_nodes_share_the_memory_and_nothing_else(directory: DataDirectory) -> None:
    """Two workers on one machine: a name, a directory and half of 80 % of its memory each."""
    workers = [spec for spec in specs(directory, nodes=2) if spec.service == "worker"]
    assert [spec.settings["MAYFLY_WORKER_NODE"] for spec in workers] == ["n1", "n2"]
    assert {spec.settings["MAYFLY_WORKER_MEMORY_MB"] for spec in workers} == {"4000"}
    assert len({spec.name for spec in workers}) == 2


def test_node_that_is_added_later_is_like_the_first(directory: DataDirectory) -> None:
    """With room for four, each has a quarter of the memory from the beginning, and its own name, folder and log."""
    made = planned(directory, nodes=1, max_nodes=4)
    (first,) = [spec for spec in made.services() if spec.node]
    later = made.worker("n4")
    assert (first.node, first.name, later.node, later.name) == ("n1", "worker-n1", "n4", "worker-n4")
    assert first.settings["MAYFLY_WORKER_MEMORY_MB"] == later.settings["MAYFLY_WORKER_MEMORY_MB"] == "2000"
    different = {name for name in later.settings if later.settings[name] != first.settings[name]}
    assert different == {"MAYFLY_WORKER_NODE", "MAYFLY_WORKER_DIRECTORY"}


def test_registry_knows_what_there_can_be(directory: DataDirectory) -> None:
    """What is promised to functions for good is held against as many nodes as there may ever be."""
    (registry,) = [spec for spec in specs(directory, max_nodes=4, node_memory_mb=512) if spec.service == "registry"]
    assert registry.settings["MAYFLY_REGISTRY_CAPACITY_MB"] == "2048"


def test_scaler_adds_only_where_it_may(directory: DataDirectory) -> None:
    """`--max-nodes` above `--nodes`; its other settings are those of one machine, unless the user says otherwise."""
    fixed = planned(directory, nodes=2).scaler().settings
    assert (fixed["MAYFLY_SCALER_PROVIDER"], fixed["MAYFLY_SCALER_MAX_NODES"]) == ("none", "2")
    own = {"MAYFLY_SCALER_WINDOW_S": "3", "MAYFLY_ROUTER_NAME": "r9"}
    settings = planned(directory, own, nodes=1, max_nodes=3, node_memory_mb=512).scaler().settings
    scaling = {name.removeprefix("MAYFLY_SCALER_"): value for name, value in settings.items() if "SCALER_" in name}
    assert scaling == {
        "PROVIDER": "local",
        "MIN_NODES": "1",
        "MAX_NODES": "3",
        "NODE_MEMORY_MB": "512",
        "WINDOW_S": "3",
        "AFTER_OUT_S": "20",
        "TICK_S": "1",
    }
    assert "MAYFLY_ROUTER_NAME" not in settings


def test_registry_does_not_know_what_is_granted(directory: DataDirectory) -> None:
    """The roles and the registry follow one file, wherever `up` was started."""
    (registry,) = [spec for spec in specs(directory, access=Path("a.toml")) if spec.service == "registry"]
    assert registry.settings["MAYFLY_REGISTRY_ACCESS_FILE"] == str(Path.cwd() / "a.toml")
    (registry,) = [spec for spec in specs(directory) if spec.service == "registry"]
    assert "MAYFLY_REGISTRY_ACCESS_FILE" not in registry.settings


def test_no_secret_is_in_an_environment(directory: DataDirectory) -> None:
    """Environments can be read by others (/proc, crash reports): services get the names of private files."""
    settings = [value for spec in specs(directory) for value in spec.settings.values()]
    secrets = {path.read_text() for path in (directory.path / "secrets").iterdir()}
    assert secrets
    assert not [value for value in settings if any(secret in value for secret in secrets)]


def test_each_service_has_its_own_user(directory: DataDirectory) -> None:
    """Least privilege: nobody connects as somebody else."""
    for spec in specs(directory):
        assert spec.settings["MAYFLY_NATS_USER"] == spec.service
        assert Path(spec.settings["MAYFLY_NATS_PASSWORD_FILE"]).name == spec.service


def test_secrets_are_private_and_stay(directory: DataDirectory) -> None:
    """Made once, kept over restarts, readable by the owner only."""
    file = directory.secret_file("token")
    assert directory.secret("token") == DataDirectory(directory.path).secret("token")
    assert len(directory.secret("token")) >= 32
    for path in (directory.path, file.parent):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_second_platform_on_the_same_directory_is_refused(directory: DataDirectory) -> None:
    """Two servers on one store would destroy it."""
    with directory.locked(), pytest.raises(InUse, match="in use"), DataDirectory(directory.path).locked():
        pass
    with directory.locked():
        pass


def test_port_in_use_names_the_option() -> None:
    """`cannot listen` without saying how to go on would be half an error message."""
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(ports.PortTaken, match="--nats-port"):
        ports.choose("127.0.0.1", other.getsockname()[1], "--nats-port")
    port = ports.choose("127.0.0.1", 0, "--port")
    assert 20_000 <= port < 32_768


@pytest.mark.parametrize(
    ("host", "address"),
    [("127.0.0.1", "http://127.0.0.1:80"), ("0.0.0.0", "http://127.0.0.1:80"), ("::", "http://[::1]:80")],
)
def test_address_can_be_called(host: str, address: str) -> None:
    """A wildcard is what one listens on, not what one connects to."""
    assert ports.address(host, 80) == address


def test_restarts_back_off_up_to_a_bound() -> None:
    """A service that dies at once must not use up the machine, nor be away for minutes after it is mended."""
    delays = [supervisor.delay_s(deaths) for deaths in range(10)]
    assert delays[:5] == [0, 0, 0.1, 0.2, 0.4]
    assert delays == sorted(delays)
    assert delays[-1] == supervisor.MAX_DELAY_S


def test_log_is_bounded_and_keeps_its_end(tmp_path: Path) -> None:
    """A service that writes for months does not fill the disk."""
    log = LogFile(tmp_path / "router.log", max_bytes=100)
    for number in range(100):
        log.write(b"line %d\n" % number)
    log.close()
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 250
    old, new = tmp_path / "router.log.1", tmp_path / "router.log"
    assert (old.read_text() + new.read_text()).endswith("line 98\nline 99\n")
    assert tail(tmp_path / "missing.log") == ""


def platform(**changes: str) -> Platform:
    given = {"nats": "nats://127.0.0.1:1", "http": "http://x", "user": "operator", "password": "p", "token": "t"}
    return Platform(services=(Process("nats", 7),), **{**given, **changes})


def test_platform_file_is_private_and_reads_back(tmp_path: Path) -> None:
    """It holds the operator's password."""
    platform_file.write(tmp_path, platform())
    assert platform_file.read(tmp_path) == platform()
    assert stat.S_IMODE((tmp_path / "platform.json").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["platform.json"]


def test_missing_platform_says_how_to_start_one(tmp_path: Path) -> None:
    """The first thing that a newcomer meets."""
    with pytest.raises(PlatformNotFound, match="mayfly up"):
        platform_file.read(tmp_path)


def test_context_of_another_running_platform_is_left_alone(tmp_path: Path) -> None:
    """`nats --context mayfly` must not move to another platform while the first one runs."""
    environ = {"XDG_CONFIG_HOME": str(tmp_path / "config")}
    first, second = DataDirectory(tmp_path / "first"), DataDirectory(tmp_path / "second.x")
    with first.locked(), second.locked():
        assert nats_context.write(first.path, platform(), environ) == "mayfly"
        assert nats_context.write(second.path, platform(), environ) == "mayfly-second-x"
        assert nats_context.write(first.path, platform(nats="nats://127.0.0.1:2"), environ) == "mayfly"
    assert nats_context.write(second.path, platform(), environ) == "mayfly"
    for path in (tmp_path / "config/nats/context").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert json.loads(path.read_bytes())["inbox_prefix"] == "_INBOX_operator"
