"""The worker's settings, as they stand in the environment."""

import pytest

from mayfly_chassis.config import ConfigError, load
from mayfly_worker.config import WorkerConfig


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("gpu=yes,zone=a", {"gpu": "yes", "zone": "a"}),
        (" gpu=yes , ", {"gpu": "yes"}),
        ("topology.kubernetes.io/zone=eu-1a", {"topology.kubernetes.io/zone": "eu-1a"}),
        ("", {}),
    ],
)
def test_labels_are_pairs(text: str, labels: dict[str, str]) -> None:
    """As Kubernetes writes them."""
    assert load(WorkerConfig, "worker", {"MAYFLY_WORKER_LABELS": text}).labels == labels


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("gpu", "'gpu' is no label: name=value"),
        ("gpu=", "'gpu=' is no label"),
        ("a=b=c", "'a=b=c' is no label"),
        ("gpu=yes,gpu=no", "label gpu is there twice"),
        ("gpu=" + "y" * 64, "is no label"),
    ],
)
def test_a_label_that_is_none_is_named(text: str, sentence: str) -> None:
    """The message has variable, value and rule."""
    with pytest.raises(ConfigError, match="MAYFLY_WORKER_LABELS=") as error:
        load(WorkerConfig, "worker", {"MAYFLY_WORKER_LABELS": text})
    assert sentence in str(error.value)


def test_defaults_follow_the_machine() -> None:
    """Four fifths of the memory there is, and eight starts at once for each core."""
    config = load(WorkerConfig, "worker", {})
    assert config.memory_mb > 0
    assert config.max_starts % 8 == 0
    assert (config.labels, config.cordon_limit_s, config.drain_limit_s) == ({}, 10.0, 60.0)
