"""The registry's knobs."""

from typing import Annotated

from pydantic import Field

from mayfly_chassis.config import ServiceConfig


class RegistryConfig(ServiceConfig):
    probe_timeout_s: Annotated[float, Field(gt=0, le=300)] = 10.0  # a new version must be routable by then
    grace_s: Annotated[float, Field(gt=0)] = 300.0  # what no record names stays so long
    reconcile_every_s: Annotated[float, Field(gt=0)] = 30.0
    keep_versions: Annotated[int, Field(ge=11, le=1000)] = 50
    platform_ports: frozenset[Annotated[int, Field(ge=1, le=65_535)]] = frozenset()  # functions are kept out of these
