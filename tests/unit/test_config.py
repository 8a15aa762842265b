"""Settings from the environment."""

from pathlib import Path

import pytest

from mayfly_chassis.config import ConfigError, ServiceConfig, load


class RouterConfig(ServiceConfig):
    queue_limit: int = 10
    nodes: tuple[str, ...] = ()
    required_thing: str = "set"


class Strict(ServiceConfig):
    node: str


def test_the_services_own_variable_goes_before_the_shared_one() -> None:
    """``MAYFLY_ROUTER_X`` is for the router alone, ``MAYFLY_X`` for everybody on the machine; empty is not set."""
    environ = {
        "MAYFLY_NATS_URL": "nats://shared:4222",
        "MAYFLY_ROUTER_NATS_URL": "nats://own:4222,tls://other:4222",
        "MAYFLY_QUEUE_LIMIT": "7",
        "MAYFLY_ROUTER_NODES": "a, b,",
        "MAYFLY_NATS_USER": "",
        "MAYFLY_WORKER_QUEUE_LIMIT": "9",
    }
    config = load(RouterConfig, "router", environ)
    assert config.nats_url == "nats://own:4222,tls://other:4222"
    assert config.queue_limit == 7
    assert config.nodes == ("a", "b")
    assert config.nats_user is None


def test_a_mistake_is_named_with_its_variable_its_value_and_what_is_right() -> None:
    """Every wrong variable is in the message, so that one start is enough to find them all."""
    environ = {"MAYFLY_ROUTER_QUEUE_LIMIT": "many", "MAYFLY_LOG_LEVEL": "loud", "MAYFLY_NATS_URL": "http://x"}
    with pytest.raises(ConfigError) as caught:
        load(RouterConfig, "router", environ)
    lines = str(caught.value).splitlines()
    assert any(line.startswith("MAYFLY_ROUTER_QUEUE_LIMIT=many: ") and "integer" in line for line in lines)
    assert any(line.startswith("MAYFLY_LOG_LEVEL=loud: ") and "'info'" in line for line in lines)
    assert any(line.startswith("MAYFLY_NATS_URL=http://x: ") and "nats|tls" in line for line in lines)


def test_a_missing_setting_is_named() -> None:
    """The message names the variable to set."""
    with pytest.raises(ConfigError, match="MAYFLY_WORKER_NODE: Field required"):
        load(Strict, "worker", {})


def test_a_password_comes_from_its_file_and_a_missing_file_is_named(tmp_path: Path) -> None:
    """White space around the password is not part of it; a file that is not there is an error, not no password."""
    (tmp_path / "password").write_text(" secret\n")
    assert ServiceConfig(nats_password_file=tmp_path / "password").nats_password() == "secret"
    assert ServiceConfig().nats_password() is None
    with pytest.raises(ConfigError, match=r"MAYFLY_NATS_PASSWORD_FILE=.*No such file"):
        ServiceConfig(nats_password_file=tmp_path / "nothing").nats_password()


def test_a_file_of_certificates_is_read_at_the_start(tmp_path: Path) -> None:
    """One that is missing, or is something else, is a mistake in the configuration and not one of the network."""
    with pytest.raises(ConfigError, match=r"MAYFLY_NATS_CA_FILE=.*No such file"):
        load(ServiceConfig, "router", {"MAYFLY_NATS_CA_FILE": str(tmp_path / "nothing")})
    (tmp_path / "ca.crt").write_text("no certificate\n")
    with pytest.raises(ConfigError, match=r"MAYFLY_NATS_CA_FILE=.*holds no certificate"):
        load(ServiceConfig, "router", {"MAYFLY_NATS_CA_FILE": str(tmp_path / "ca.crt")})


def test_configuration_cannot_change_while_a_service_runs() -> None:
    """The model is frozen."""
    with pytest.raises(ValueError, match="frozen"):
        ServiceConfig().nats_url = "nats://elsewhere:4222"
