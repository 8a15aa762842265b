"""Tells whoever started this process (systemd, ``mayfly up``) how it stands: the protocol of ``sd_notify(3)``."""

import os
import socket
from collections.abc import Mapping

READY = "READY=1"
STOPPING = "STOPPING=1"


def notify(state: str, environ: Mapping[str, str] | None = None) -> None:
    """Send a state to the socket named by ``NOTIFY_SOCKET``; nothing happens where there is none."""
    address = (os.environ if environ is None else environ).get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        try:
            channel.sendto(state.encode(), address)
        except OSError:
            return  # whoever wanted to know is gone, which is no reason to go as well
