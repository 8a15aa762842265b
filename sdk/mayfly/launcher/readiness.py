"""Where services say that they are ready: systemd's protocol, one datagram ``READY=1`` to $NOTIFY_SOCKET.

The socket has an abstract name, which any process on the machine may send to; so the kernel is asked who did.
"""

import asyncio
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_CREDENTIALS = struct.Struct("iII")  # pid, uid, gid
_SPACE = socket.CMSG_SPACE(_CREDENTIALS.size)


@contextmanager
def listening(on_ready: Callable[[int], None]) -> Iterator[str]:
    """Calls ``on_ready(pid)`` for each process that says it is ready; the value is for its $NOTIFY_SOCKET."""
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as box:
        box.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        box.bind("")  # the kernel chooses a free abstract name

        def receive() -> None:
            text, ancillary, _, _ = box.recvmsg(4096, _SPACE)
            if b"READY=1" in text.split(b"\n"):
                on_ready(_sender(ancillary))

        loop.add_reader(box, receive)
        try:
            yield "@" + box.getsockname()[1:].decode()
        finally:
            loop.remove_reader(box)


def _sender(ancillary: list[tuple[int, int, bytes]]) -> int:
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
            pid: int = _CREDENTIALS.unpack(data[: _CREDENTIALS.size])[0]
            return pid
    return 0
