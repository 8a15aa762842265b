"""Which TCP ports a platform listens on."""

import random
import socket

# Below the ports that the kernel gives to outgoing connections: while a service is down nobody else gets its port,
# and a client that tries to reach it cannot end up connected to itself.
_OWN = range(20_000, 32_768)


class PortTaken(Exception):
    """Something else listens there."""


def choose(host: str, port: int, option: str) -> int:
    """``port`` if it is free, or any free one for 0. Raises `PortTaken`, which names the ``option`` to change."""
    reason = ""
    for candidate in [port] if port else random.sample(_OWN, 200):
        try:
            family = socket.getaddrinfo(host, candidate, type=socket.SOCK_STREAM)[0][0]
            with socket.create_server((host, candidate), family=family):
                return candidate
        except OSError as error:
            reason = error.strerror or str(error)
    raise PortTaken(f"cannot listen on {host}:{port} ({reason}): choose another with {option}, or {option} 0 for any")


def address(host: str, port: int) -> str:
    """Where a client on this machine reaches what listens on ``host``."""
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - not bound to here
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"
