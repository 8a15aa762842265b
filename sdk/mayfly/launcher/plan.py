"""Which processes make a platform, with which settings, and in which order they stop. Decides only; starts nothing."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from mayfly.launcher.directory import TOKEN, DataDirectory

NATS = "nats"
WORKER = "worker"
SCALER = "scaler"

# What is first here stops first: no node is added or drained any more and nothing new comes in, what waits is handed on
# or answered, running calls finish.
STOP_ORDER = (("gateway", SCALER), ("router",), (WORKER,), ("activator", "registry"), (NATS,))

_MEMORY_SHARE = 0.8

# Nodes of one machine come in a second and cost nothing to make, so that they may go earlier than others.
_LOCAL_PACE = {
    "MAYFLY_SCALER_WINDOW_S": "60",
    "MAYFLY_SCALER_AFTER_OUT_S": "20",
    "MAYFLY_SCALER_TICK_S": "1",
}


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
    max_nodes: int = 0  # up to which the scaler adds; fewer than `nodes`: none
    access: Path | None = None  # file that says what of the user's own functions may touch

    @property
    def scales(self) -> bool:
        return self.max_nodes > self.nodes

    @property
    def most_nodes(self) -> int:
        return max(self.nodes, self.max_nodes)


@dataclass(frozen=True, slots=True)
class Spec:
    service: str  # as its folder is named
    name: str  # of its log; there may be several workers
    settings: Mapping[str, str]  # environment
    node: str = ""  # that it is

    @property
    def module(self) -> str:
        return f"mayfly_{self.service}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    options: Options
    directory: DataDirectory
    nats_url: str
    node_memory_mb: int
    scaler_settings: Mapping[str, str]  # what the user's own environment says to the scaler

    def services(self) -> list[Spec]:
        """Those that have to be there for calls to work; the slowest to start come first."""
        options = self.options
        gateway = {
            "MAYFLY_GATEWAY_HOST": options.host,
            "MAYFLY_GATEWAY_PORT": str(options.port),
            "MAYFLY_GATEWAY_TOKEN_FILE": str(self.directory.secret_file(TOKEN)),
        }
        registry = {"MAYFLY_REGISTRY_CAPACITY_MB": str(options.most_nodes * self.node_memory_mb)}
        if options.access:
            registry["MAYFLY_REGISTRY_ACCESS_FILE"] = str(options.access.absolute())
        return [
            self._spec("gateway", gateway),
            *(self.worker(f"n{number}") for number in range(1, options.nodes + 1)),
            self._spec("registry", registry),
            self._spec("router", {}),
            self._spec("activator", {}),
        ]

    def worker(self, node: str) -> Spec:
        settings = {
            "MAYFLY_WORKER_NODE": node,
            "MAYFLY_WORKER_MEMORY_MB": str(self.node_memory_mb),
            "MAYFLY_WORKER_DIRECTORY": str(self.directory.node(node)),
        }
        spec = self._spec(WORKER, settings)
        return replace(spec, node=node, name=spec.name if self.options.most_nodes == 1 else f"{spec.name}-{node}")

    def scaler(self) -> Spec:
        """Nobody waits for it. Its user has the last word on its settings."""
        nodes = {
            "MAYFLY_SCALER_PROVIDER": "local" if self.options.scales else "none",
            "MAYFLY_SCALER_MIN_NODES": str(self.options.nodes),
            "MAYFLY_SCALER_MAX_NODES": str(self.options.most_nodes),
            "MAYFLY_SCALER_NODE_MEMORY_MB": str(self.node_memory_mb),
        }
        return self._spec(SCALER, {**_LOCAL_PACE, **nodes, **self.scaler_settings})

    def _spec(self, service: str, settings: Mapping[str, str]) -> Spec:
        ports = (self.options.nats_port, self.options.port)  # which functions are kept out of
        shared = {
            "MAYFLY_NATS_URL": self.nats_url,
            "MAYFLY_NATS_USER": service,
            "MAYFLY_NATS_PASSWORD_FILE": str(self.directory.secret_file(service)),
            "MAYFLY_PLATFORM_PORTS": ",".join(map(str, ports)),
        }
        return Spec(service, service, {**shared, **settings})


def plan(
    options: Options,
    directory: DataDirectory,
    *,
    nats_url: str,
    machine_memory_mb: int,
    environ: Mapping[str, str],
) -> Plan:
    return Plan(
        options=options,
        directory=directory,
        nats_url=nats_url,
        node_memory_mb=options.node_memory_mb or int(machine_memory_mb * _MEMORY_SHARE / options.most_nodes),
        scaler_settings={name: value for name, value in environ.items() if name.startswith("MAYFLY_SCALER_")},
    )
