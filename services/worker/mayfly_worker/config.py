"""The worker's knobs; each is ``MAYFLY_WORKER_<NAME>``."""

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

from mayfly_chassis.config import ServiceConfig
from mayfly_proto import names
from mayfly_worker.machine import Machine

_SHARE_OF_MACHINE = 0.8
_STARTS_PER_CORE = 8  # forks: cheap enough that more than one a core keeps the cores busy
_LABEL = re.compile(f"({names.LABEL.pattern})=({names.LABEL.pattern})")


def _share_of_memory_mb() -> int:
    return int(Machine().memory_mb * _SHARE_OF_MACHINE)


def _most_starts() -> int:
    return _STARTS_PER_CORE * Machine().cores


def parse_labels(text: object) -> object:
    """``gpu=yes,zone=a``, as in the environment; anything but a text is left to the model."""
    if not isinstance(text, str):
        return text
    labels: dict[str, str] = {}
    for part in filter(None, map(str.strip, text.split(","))):
        match = _LABEL.fullmatch(part)
        if match is None:
            raise ValueError(f"{part!r} is no label: name=value, each {names.LABEL_RULE}")
        if match[1] in labels:
            raise ValueError(f"label {match[1]} is there twice")
        labels[match[1]] = match[2]
    return labels


class WorkerConfig(ServiceConfig):
    node: Annotated[str, AfterValidator(names.check_node)] = "n1"
    directory: Path = Path(".mayfly/worker")  # for unpacked code; a node's own
    memory_mb: Annotated[int, Field(ge=1, default_factory=_share_of_memory_mb)]  # for all instances together
    cache_mb: Annotated[int, Field(ge=1)] = 2048  # unpacked code that is kept
    max_starts: Annotated[int, Field(ge=1, default_factory=_most_starts)]  # at the same time
    labels: Annotated[
        dict[str, str], BeforeValidator(parse_labels), Field(default_factory=dict)
    ]  # that functions may ask for
    platform_ports: frozenset[int] = frozenset({4222})  # that functions must not connect to
    cordon_limit_s: Annotated[float, Field(ge=0)] = 10.0  # for owners to replace what is held, when it is to be empty
    drain_limit_s: Annotated[float, Field(ge=0)] = 60.0  # and then for running calls
