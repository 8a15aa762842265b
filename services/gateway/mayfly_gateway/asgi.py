"""The little of ASGI that the gateway speaks itself."""

from starlette.types import ASGIApp, Receive, Scope, Send

from mayfly_gateway.translation import COMPONENT, Response
from mayfly_proto.errors import CallError, ErrorType

__all__ = ["ASGIApp", "ClientGone", "Receive", "Scope", "Send", "read_body", "respond", "too_large"]


class ClientGone(Exception):
    """The client closed its connection in the middle of its request."""


async def respond(send: Send, response: Response) -> None:
    await send({"type": "http.response.start", "status": response.status, "headers": response.fields})
    await send({"type": "http.response.body", "body": response.body})


async def read_body(receive: Receive, length: int | None, limit: int) -> bytes:
    """The whole body. Raises CallError (too_large), before reading where the client says how much it has, and
    `ClientGone`."""
    if length is not None and length > limit:
        raise too_large(limit)
    parts: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientGone
        parts.append(message["body"])
        more = message["more_body"]
        size += len(parts[-1])
        if size > limit:
            raise too_large(limit)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def too_large(limit: int) -> CallError:
    return CallError(ErrorType.TOO_LARGE, f"the body is larger than {limit} bytes", component=COMPONENT)
