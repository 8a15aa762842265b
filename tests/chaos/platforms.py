"""The two platforms that storms are let loose on: `mayfly up`, and one on a cluster of three NATS servers."""

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from tests.acceptance.conftest import Platform, running, started, stop

STOP_TIMEOUT_S = 180.0


@contextmanager
def single(folder: Path) -> Iterator[Platform]:
    with running(folder, "--node-memory", "4096") as platform:
        yield platform


@contextmanager
def cluster(folder: Path) -> Iterator[Platform]:
    data = folder / "data"
    platform = started([sys.executable, "-m", "tests.chaos.cluster", str(data)], data, folder / "config")
    try:
        yield platform
    finally:
        stop(platform, STOP_TIMEOUT_S)


PLATFORMS: dict[str, Callable[[Path], AbstractContextManager[Platform]]] = {"single": single, "cluster": cluster}
