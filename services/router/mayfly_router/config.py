"""What a router can be told from outside."""

from typing import Annotated

from pydantic import AfterValidator, Field

from mayfly_chassis.config import ServiceConfig
from mayfly_proto import names


class RouterConfig(ServiceConfig):
    """Read from ``MAYFLY_ROUTER_<FIELD>``."""

    name: Annotated[str, AfterValidator(names.check_node)] = "r1"
    wait_s: float = Field(10.0, ge=0, le=3600)  # a call's default deadline is the function's timeout and this
    backlog_mb: int = Field(256, ge=1)  # payloads that wait, over all functions
    drain_s: float = Field(5.0, ge=0)  # at the end, for calls that wait here
