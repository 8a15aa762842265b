"""Containers of one Docker engine, each a worker. They are known by their labels, and go on when the scaler ends.

What a worker's container needs besides its name and its memory (secrets, capabilities, volumes) is for the operator to
say: in a file in the engine's own format, as its API takes it to create a container.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from aiodocker import Docker, DockerError

from mayfly_scaler.config import ScalerConfig
from mayfly_scaler.nodes.drains import Numbering
from mayfly_scaler.nodes.providers.provider import ProviderError

PROJECT_LABEL = "mayfly-project"
NODE_LABEL = "mayfly-node"

OVERHEAD_MB = 256  # of a worker itself, above what it may promise to instances
STOP_S = 90  # for a worker's last calls: what its MAYFLY_WORKER_CORDON_LIMIT_S and _DRAIN_LIMIT_S allow, and some

_TIMEOUT = aiohttp.ClientTimeout(total=30)
_STOP_TIMEOUT = aiohttp.ClientTimeout(total=STOP_S + 10)
_NOT_FOUND = 404
_CONFLICT = 409
_BYTES_PER_MB = 2**20


class _Shared(msgspec.Struct, rename="pascal"):
    """What the file and the scaler both say something of; the engine writes null where there is nothing."""

    env: list[str] | None = None
    labels: dict[str, str] | None = None
    host_config: dict[str, Any] | None = None


class DockerNodes:
    own_processors = False  # they share those of the engine's machine
    from_the_end = False

    def __init__(self, config: ScalerConfig) -> None:
        self.numbering = Numbering("n", config.docker_first)
        self._config = config
        self._template = _template(config.docker_container)
        self._engine = Docker(url=f"unix://{config.docker_socket}", timeout=_TIMEOUT)

    async def list(self) -> frozenset[str]:
        wanted = {"label": [f"{PROJECT_LABEL}={self._config.docker_project}", NODE_LABEL]}
        with _translated():
            containers = await self._engine.containers.list(all=True, filters=wanted)
        return frozenset(container["Labels"][NODE_LABEL] for container in containers)

    async def add(self, node: str) -> None:
        with _translated():
            try:
                container = await self._engine.containers.create(self._container(node), name=self._name(node))
            except DockerError as error:
                if error.status != _CONFLICT:
                    raise
                container = await self._engine.containers.get(self._name(node))
            await container.start()

    async def remove(self, node: str) -> None:
        """Takes as long as the worker needs for its last calls, and at most `STOP_S`."""
        with _translated():
            try:
                container = await self._engine.containers.get(self._name(node))
                await container.stop(t=STOP_S, timeout=_STOP_TIMEOUT)
                await container.delete(force=True, v=True)
            except DockerError as error:
                if error.status not in (_NOT_FOUND, _CONFLICT):  # it is gone, or about to be
                    raise

    async def close(self) -> None:
        await self._engine.close()

    def _name(self, node: str) -> str:
        return f"{self._config.docker_project}-{node}"

    def _container(self, node: str) -> dict[str, Any]:
        config, template = self._config, self._template
        memory = (config.node_memory_mb + OVERHEAD_MB) * _BYTES_PER_MB
        own = {"MAYFLY_WORKER_NODE": node, "MAYFLY_WORKER_MEMORY_MB": str(config.node_memory_mb)}
        host = {
            "Memory": memory,
            "MemorySwap": memory,  # no swap
            "RestartPolicy": {"Name": "on-failure"},
            **({"NetworkMode": config.docker_network} if config.docker_network else {}),
        }
        return {
            "Cmd": ["worker"],  # as the image calls it: see deploy/worker
            "StopTimeout": STOP_S,
            **template,
            "Image": config.docker_image,
            "Env": [f"MAYFLY_NATS_URL={config.nats_url}", *template["Env"], *_assignments(own)],
            "Labels": {**template["Labels"], PROJECT_LABEL: config.docker_project, NODE_LABEL: node},
            "HostConfig": {**template["HostConfig"], **host},
        }


def _assignments(settings: dict[str, str]) -> list[str]:
    return [f"{name}={value}" for name, value in settings.items()]


def _template(file: Path | None) -> dict[str, Any]:
    """Has Env, Labels and HostConfig, if only empty ones; all else is for the engine to judge."""
    try:
        template = msgspec.json.decode(file.read_bytes(), type=dict[str, Any]) if file else {}
        shared = msgspec.convert(template, _Shared)
    except (OSError, ValueError) as error:
        raise ProviderError(f"MAYFLY_SCALER_DOCKER_CONTAINER={file}: {error}") from error
    return {
        **template,
        "Env": shared.env or [],
        "Labels": shared.labels or {},
        "HostConfig": shared.host_config or {},
    }


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except DockerError as error:
        raise ProviderError(f"Docker engine: {error.message}") from error
    except (TimeoutError, aiohttp.ClientError, OSError) as error:
        raise ProviderError(f"Docker engine: {str(error) or type(error).__name__}") from error
