"""What a scaler can be told from outside."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from mayfly_chassis.config import ServiceConfig
from mayfly_proto import names


def _boot_s(settings: dict[str, Any]) -> float:
    """A process, a container, or perhaps a machine."""
    return {"local": 15.0, "docker": 60.0}.get(settings.get("provider", ""), 300.0)


class ScalerConfig(ServiceConfig):
    """Read from ``MAYFLY_SCALER_<FIELD>``."""

    name: Annotated[str, AfterValidator(names.check_node)] = "s1"
    provider: Literal["none", "local", "docker", "kubernetes"] = "none"
    min_nodes: int = Field(1, ge=0, le=1000)
    max_nodes: int = Field(1, ge=1, le=1000)
    node_memory_mb: int = Field(2048, ge=64)  # of a node that is added
    tick_s: float = Field(5.0, gt=0, le=60)  # between two looks at the nodes
    window_s: float = Field(300.0, gt=0)  # whose peak has to fit when nodes are taken away
    target: float = Field(0.75, gt=0, le=1)  # use of the nodes that is aimed at
    out_at: float = Field(0.85, gt=0, le=1)  # use above which nodes are added
    in_at: float = Field(0.80, gt=0, le=1)  # use that the nodes left must not exceed when some are taken away
    after_out_s: float = Field(120.0, ge=0)  # since nodes were added, before any are taken away
    between_in_s: float = Field(10.0, ge=0)
    boot_s: float = Field(default_factory=_boot_s, gt=0)  # after which a node that has not come is given up
    docker_socket: str = "/var/run/docker.sock"
    docker_project: str = Field("mayfly", pattern=r"^[a-z0-9][a-z0-9_-]*$")  # label of its containers, and prefix
    docker_first: int = Field(1, ge=1)  # number of its first node: those below it are made by hand
    docker_image: str = "mayfly"
    docker_network: str = ""
    docker_container: Path | None = None  # what else a worker's container has: JSON, as the engine's API creates it
    kubernetes_namespace: str = "mayfly"
    kubernetes_stateful_set: str = "mayfly-worker"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.min_nodes > self.max_nodes:
            raise ValueError(f"min_nodes {self.min_nodes} is above max_nodes {self.max_nodes}")
        if max(self.target, self.in_at) > self.out_at:
            raise ValueError(f"target {self.target} and in_at {self.in_at} must not be above out_at {self.out_at}")
        return self
