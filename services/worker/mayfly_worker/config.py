"""The worker's knobs; each is ``MAYFLY_WORKER_<NAME>``."""

import os
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from mayfly_chassis.config import ServiceConfig
from mayfly_proto import names

_SHARE_OF_MACHINE = 0.8
_STARTS_PER_CORE = 8  # forks: cheap enough that more than one a core keeps the cores busy


def cores() -> int:
    return len(os.sched_getaffinity(0))


def _share_of_memory_mb() -> int:
    return int(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") * _SHARE_OF_MACHINE) >> 20


class WorkerConfig(ServiceConfig):
    node: Annotated[str, AfterValidator(names.check_node)] = "n1"
    directory: Path = Path(".mayfly/worker")  # for unpacked code; a node's own
    memory_mb: Annotated[int, Field(ge=1, default_factory=_share_of_memory_mb)]  # for all instances together
    cache_mb: Annotated[int, Field(ge=1)] = 2048  # unpacked code that is kept
    max_starts: Annotated[int, Field(ge=1, default_factory=lambda: _STARTS_PER_CORE * cores())]  # at the same time
    platform_ports: frozenset[int] = frozenset({4222})  # that functions must not connect to
    drain_limit_s: Annotated[float, Field(ge=0)] = 60.0  # for running calls, when told to stop
