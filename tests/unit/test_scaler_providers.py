"""Which provider there is, and what is said when its client is not installed."""

import sys

import pytest

from mayfly_chassis.config import ConfigError, load
from mayfly_scaler.config import ScalerConfig
from mayfly_scaler.nodes.providers import choice
from mayfly_scaler.nodes.providers.local import LocalNodes
from mayfly_scaler.nodes.providers.provider import ProviderError

BUS = None  # none of these connects to anything


def test_no_provider_is_the_default() -> None:
    """Nodes are made by hand, unless somebody says who is to make them."""
    assert choice.choose(ScalerConfig(), BUS) is None  # type: ignore[arg-type]
    assert isinstance(choice.choose(ScalerConfig(provider="local"), BUS), LocalNodes)  # type: ignore[arg-type]


@pytest.mark.parametrize(("provider", "client"), [("docker", "aiodocker"), ("kubernetes", "lightkube")])
def test_missing_client_says_what_to_install(monkeypatch: pytest.MonkeyPatch, provider: str, client: str) -> None:
    """They are extras: who has no engine and no cluster needs neither."""
    monkeypatch.setitem(sys.modules, client, None)
    monkeypatch.delitem(sys.modules, f"mayfly_scaler.nodes.providers.{provider}", raising=False)
    with pytest.raises(ProviderError, match=rf"needs {client}.*pip install 'mayfly\[{provider}\]'"):
        choice.choose(ScalerConfig(provider=provider), BUS)  # type: ignore[arg-type]


def test_a_process_is_waited_for_less_than_a_machine() -> None:
    """Unless somebody says how long."""
    assert [ScalerConfig(provider=p).boot_s for p in ("local", "docker", "kubernetes")] == [15, 60, 300]
    assert ScalerConfig(provider="local", boot_s=3).boot_s == 3


@pytest.mark.parametrize(
    ("variables", "complaint"),
    [
        ({"PROVIDER": "heroku"}, "MAYFLY_SCALER_PROVIDER=heroku"),
        ({"MIN_NODES": "3", "MAX_NODES": "2"}, "min_nodes 3 is above max_nodes 2"),
        ({"TARGET": "0.9"}, "must not be above out_at 0.85"),
        ({"IN_AT": "0.9"}, "must not be above out_at 0.85"),
        ({"DOCKER_PROJECT": "My Shop"}, "MAYFLY_SCALER_DOCKER_PROJECT=My Shop"),
    ],
)
def test_settings_that_contradict_are_refused(variables: dict[str, str], complaint: str) -> None:
    """With the name of the variable, or of both."""
    environ = {f"MAYFLY_SCALER_{name}": value for name, value in variables.items()}
    with pytest.raises(ConfigError, match=complaint):
        load(ScalerConfig, "scaler", environ)
