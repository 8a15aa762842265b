"""Answers ``GET /healthz`` (the loop runs) and ``GET /readyz`` (it takes work), and nothing else."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

_READ_TIMEOUT_S = 5.0
_STATUS = {200: "OK", 404: "Not Found", 405: "Method Not Allowed", 503: "Service Unavailable"}


@asynccontextmanager
async def serving(host: str, port: int, ready: Callable[[], bool]) -> AsyncIterator[int]:
    """Listen on that port (0: any) as long as the block runs; gives the port."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_READ_TIMEOUT_S):
                request = await reader.readuntil(b"\r\n\r\n")
            writer.write(_answer(request, ready))
            await writer.drain()
        except (TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError):
            pass  # whoever asked has gone, or is no HTTP client
        finally:
            writer.close()

    server = await asyncio.start_server(answer, host, port, limit=16384)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


def _answer(request: bytes, ready: Callable[[], bool]) -> bytes:
    method, _, rest = request.partition(b" ")
    path = rest.split(b" ", 1)[0].split(b"?", 1)[0]
    if method not in (b"GET", b"HEAD"):
        status, text = 405, "only GET"
    elif path == b"/healthz":
        status, text = 200, "ok"
    elif path == b"/readyz":
        status, text = (200, "ready") if ready() else (503, "not ready")
    else:
        status, text = 404, "only /healthz and /readyz"
    body = b"" if method == b"HEAD" else f"{text}\n".encode()
    head = f"HTTP/1.1 {status} {_STATUS[status]}\r\nContent-Type: text/plain\r\nContent-Length: {len(text) + 1}\r\n"
    return f"{head}Connection: close\r\n\r\n".encode() + body
