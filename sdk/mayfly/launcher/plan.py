"""Which processes make a platform, with which settings, and in which order they stop. Decides only; starts nothing."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mayfly.launcher.directory import TOKEN, DataDirectory

NATS = "nats"

# What is first here stops first: nothing new comes in, what waits is handed on or answered, running calls finish.
STOP_ORDER = (("gateway",), ("router",), ("worker",), ("activator", "registry"), (NATS,))

_MEMORY_SHARE = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    data: Path
    host: str
    port: int
    nats_port: int
    nodes: int
    node_memory_mb: int | None  # None: most of the machine's, shared out
    secure: bool
    verbose: bool
    access: Path | None = None  # file that says what of the user's own functions may touch


@dataclass(frozen=True, slots=True)
class Spec:
    service: str  # as its folder is named
    name: str  # of its log; there may be several workers
    settings: Mapping[str, str]  # environment

    @property
    def module(self) -> str:
        return f"mayfly_{self.service}"


def services(options: Options, directory: DataDirectory, *, nats_url: str, machine_memory_mb: int) -> list[Spec]:
    node_memory_mb = options.node_memory_mb or int(machine_memory_mb * _MEMORY_SHARE / options.nodes)
    gateway = {
        "MAYFLY_GATEWAY_HOST": options.host,
        "MAYFLY_GATEWAY_PORT": str(options.port),
        "MAYFLY_GATEWAY_TOKEN_FILE": str(directory.secret_file(TOKEN)),
    }
    workers = {
        f"n{number}": {
            "MAYFLY_WORKER_NODE": f"n{number}",
            "MAYFLY_WORKER_MEMORY_MB": str(node_memory_mb),
            "MAYFLY_WORKER_DIRECTORY": str(directory.node(f"n{number}")),
        }
        for number in range(1, options.nodes + 1)
    }
    own = [
        Spec("worker", "worker" if options.nodes == 1 else f"worker-{node}", settings)
        for node, settings in workers.items()
    ]
    # The slowest to start come first.
    specs = [Spec("gateway", "gateway", gateway), *own]
    registry = {"MAYFLY_REGISTRY_ACCESS_FILE": str(options.access.absolute())} if options.access else {}
    specs += [Spec("registry", "registry", registry)]
    specs += [Spec(name, name, {}) for name in ("router", "activator")]
    ports = (options.nats_port, options.port)  # which functions are kept out of
    return [Spec(s.service, s.name, {**_shared(s.service, directory, nats_url, ports), **s.settings}) for s in specs]


def _shared(role: str, directory: DataDirectory, nats_url: str, ports: tuple[int, ...]) -> dict[str, str]:
    return {
        "MAYFLY_NATS_URL": nats_url,
        "MAYFLY_NATS_USER": role,
        "MAYFLY_NATS_PASSWORD_FILE": str(directory.secret_file(role)),
        "MAYFLY_PLATFORM_PORTS": ",".join(map(str, ports)),
    }
