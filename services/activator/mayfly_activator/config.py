"""What an activator can be told from outside."""

from mayfly_chassis.config import ServiceConfig


class ActivatorConfig(ServiceConfig):
    """Read from ``MAYFLY_ACTIVATOR_<FIELD>``."""
