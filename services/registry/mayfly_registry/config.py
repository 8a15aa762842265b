"""The registry's knobs."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator

from mayfly_broker import access
from mayfly_chassis.config import ServiceConfig
from mayfly_registry.allowed import Allowed


class RegistryConfig(ServiceConfig):
    probe_timeout_s: Annotated[float, Field(gt=0, le=300)] = 10.0  # a new version must be routable by then
    grace_s: Annotated[float, Field(gt=0)] = 300.0  # what no record names stays so long
    reconcile_every_s: Annotated[float, Field(gt=0)] = 30.0
    keep_versions: Annotated[int, Field(ge=11, le=1000)] = 50
    platform_ports: frozenset[Annotated[int, Field(ge=1, le=65_535)]] = frozenset()  # functions are kept out of these
    access_file: Path | None = None  # what of the user's own functions may touch
    sweep_every_s: Annotated[float, Field(gt=0)] = 5.0  # durable calls to names that no function has
    events_keep_s: Annotated[float, Field(ge=0)] = 86_400.0  # events that everybody is done with stay so long
    # What all nodes can have for instances, with as many nodes as there may be; None: what is promised has no bound.
    capacity_mb: Annotated[int, Field(ge=1)] | None = None

    @field_validator("access_file")
    @classmethod
    def _readable(cls, path: Path | None) -> Path | None:
        try:
            if path is not None:
                if not path.is_file():
                    raise ValueError("there is no such file")
                access.read(path)
        except access.InvalidAccess as error:
            raise ValueError(str(error)) from None
        return path

    def allowed(self) -> Allowed:
        """Raises `InvalidAccess`."""
        granted = access.NOTHING if self.access_file is None else access.read(self.access_file)
        return Allowed(self.platform_ports, granted)
