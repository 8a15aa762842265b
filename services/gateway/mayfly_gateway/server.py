"""uvicorn inside the service's own loop: the chassis has the signals, the logs and the order of stopping."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn

from mayfly_chassis.service import Chassis
from mayfly_gateway.config import GatewayConfig
from mayfly_gateway.connection import Connection, watch

BACKLOG = 2048
KEEP_ALIVE_S = 65  # longer than the 60 s of usual reverse proxies, so that it is they who close


@asynccontextmanager
async def serving(application: Any, chassis: Chassis, config: GatewayConfig) -> AsyncIterator[None]:
    """Requests are taken inside the block; on leaving it running ones are finished."""
    listener = _bind(config.host, config.port)
    settings = uvicorn.Config(
        application,
        http=Connection,
        ws="none",
        interface="asgi3",
        lifespan="off",
        log_config=None,
        log_level="error",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
        limit_concurrency=config.max_connections,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(1, round(config.stop_timeout_s)),
    )
    settings.load()
    server = uvicorn.Server(settings)
    server.lifespan = settings.lifespan_class(settings)
    await server.startup(sockets=[listener])
    ticks = chassis.background("http", server.main_loop())
    patience = watch(
        server.server_state.connections,
        head_timeout_s=config.head_timeout_s,
        body_timeout_s=config.body_timeout_s,
    )
    chassis.background("http-watch", patience)
    address = _address(listener)
    if config.address_file is not None:
        config.address_file.write_text(address)
    chassis.log.info("http.listening", address=address)
    try:
        yield
    finally:
        server.should_exit = True
        await ticks
        await server.shutdown(sockets=[listener])


def _bind(host: str, port: int) -> socket.socket:
    """Raises OSError that says which address could not be had."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise OSError(f"cannot listen on {host}:{port}: {error.strerror}") from error


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
