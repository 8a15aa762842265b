"""Settings: one frozen model per service, read once from the environment.

A field ``queue_limit`` of service ``router`` is ``MAYFLY_ROUTER_QUEUE_LIMIT`` or, for what all services on a machine
share, ``MAYFLY_QUEUE_LIMIT``. Lists are separated by commas. An empty variable counts as not set.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_origin

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator

from mayfly_chassis import tls

M = TypeVar("M", bound=BaseModel)

_SERVER = r"(nats|tls)://[^\s,]+"


class ConfigError(Exception):
    """The environment does not make a valid configuration; the message names variable, value and what is right."""


class ServiceConfig(BaseModel):
    """What every service needs to know."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    nats_url: Annotated[str, StringConstraints(pattern=rf"^{_SERVER}(,{_SERVER})*$")] = "nats://127.0.0.1:4222"
    nats_user: str | None = None
    nats_password_file: Path | None = None
    nats_ca_file: Path | None = None  # certificates of who alone signs the servers'
    health_host: str = "127.0.0.1"
    health_port: Annotated[int, Field(ge=0, le=65535)] | None = None
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @field_validator("nats_ca_file")
    @classmethod
    def _usable(cls, path: Path | None) -> Path | None:
        try:
            if path is not None:
                tls.trusting(path)
        except tls.UnusableCertificates as error:
            raise ValueError(str(error)) from None
        return path

    def nats_password(self) -> str | None:
        """Raises `ConfigError` when the file cannot be read."""
        if self.nats_password_file is None:
            return None
        try:
            return self.nats_password_file.read_text().strip()
        except OSError as error:
            raise ConfigError(f"MAYFLY_NATS_PASSWORD_FILE={self.nats_password_file}: {error.strerror}") from error


def load(model: type[M], prefix: str, environ: Mapping[str, str] | None = None) -> M:
    """Read a model's fields from ``environ`` (default: the process's). Raises `ConfigError` naming every mistake."""
    environ = os.environ if environ is None else environ
    values: dict[str, Any] = {}
    variables: dict[str, str] = {}
    for field, info in model.model_fields.items():
        own, shared = f"MAYFLY_{prefix}_{field}".upper().replace("-", "_"), f"MAYFLY_{field}".upper()
        variables[field] = shared if environ.get(shared) and not environ.get(own) else own
        if value := environ.get(variables[field]):
            is_list = get_origin(info.annotation) in (list, tuple, set, frozenset)
            values[field] = [part.strip() for part in value.split(",") if part.strip()] if is_list else value
    try:
        return model.model_validate(values)
    except ValidationError as error:
        mistakes = []
        for detail in error.errors(include_url=False):
            field = str(detail["loc"][0]) if detail["loc"] else ""
            variable = variables.get(field, "configuration")
            given = f"={environ[variable]}" if environ.get(variable) else ""
            mistakes.append(f"{variable}{given}: {detail['msg']}")
        raise ConfigError("\n".join(mistakes)) from error
