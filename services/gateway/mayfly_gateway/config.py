"""Settings of the gateway: ``MAYFLY_GATEWAY_<FIELD>``."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from mayfly_chassis.config import ConfigError, ServiceConfig


class GatewayConfig(ServiceConfig):
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8080  # 0: any free one, to be read from address_file
    address_file: Path | None = None  # gets "http://127.0.0.1:41237" when requests are taken
    token_file: Path | None = None  # the management API's token; without one the API refuses everybody
    max_connections: Annotated[int, Field(ge=1)] = 4096
    head_timeout_s: Annotated[float, Field(gt=0)] = 10.0  # for a client to send its request line and headers
    body_timeout_s: Annotated[float, Field(gt=0)] = 30.0  # without a byte of a body that is not complete
    trusted_proxies: Annotated[int, Field(ge=0, le=10)] = 0  # that each append to X-Forwarded-For, one behind the other
    store_timeout_s: Annotated[float, Field(gt=0)] = 10.0  # for a stream to acknowledge, over a restart of NATS
    stop_timeout_s: Annotated[float, Field(gt=0)] = 20.0  # for running requests, when the gateway is told to stop

    def token(self) -> str | None:
        """Raises `ConfigError` when the file cannot be read or is empty."""
        if self.token_file is None:
            return None
        try:
            token = self.token_file.read_text().strip()
        except OSError as error:
            raise ConfigError(f"MAYFLY_GATEWAY_TOKEN_FILE={self.token_file}: {error.strerror}") from error
        if not token:
            raise ConfigError(f"MAYFLY_GATEWAY_TOKEN_FILE={self.token_file}: is empty; it must hold the token")
        return token
