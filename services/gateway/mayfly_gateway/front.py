"""The ASGI callable that every HTTP request meets.

The way of a call is here, in `translation` and in `calls`: no framework, no validation library, and nothing is parsed
that need not be. The management application gets what is its own.
"""

from collections.abc import Callable
from urllib.parse import quote, urlencode

from mayfly_gateway import callers, translation
from mayfly_gateway.asgi import ASGIApp, ClientGone, Receive, Scope, Send, read_body, respond
from mayfly_gateway.calls import Calls
from mayfly_gateway.catalog import Catalog, Target
from mayfly_gateway.durable import INVOCATIONS, Durable
from mayfly_gateway.routes import RESERVED, NotAllowed
from mayfly_gateway.translation import COMPONENT, Response
from mayfly_proto.errors import CallError, ErrorType

CALL = "/function/"
DURABLE_CALL = "/async-function/"
EVENT = "/event/"
MANAGEMENT = frozenset(("api", "docs", "openapi.json"))


class Front:
    def __init__(
        self,
        calls: Calls,
        durable: Durable,
        known: Catalog,
        management: ASGIApp,
        *,
        ready: Callable[[], bool],
        body_limit: int,
        trusted_proxies: int,
    ) -> None:
        self._calls = calls
        self._durable = durable
        self._known = known
        self._management = management
        self._ready = ready
        self._body_limit = body_limit
        self._trusted_proxies = trusted_proxies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope["path"]
        try:
            if path.startswith(CALL):
                target = await self._calls.find(path[len(CALL) :].partition("/")[0])
                response = await self._call(target, scope, receive)
            elif (segment := path[1:].partition("/")[0]) in MANAGEMENT:
                return await self._management(scope, receive, send)
            elif path.startswith((DURABLE_CALL, EVENT)):
                if scope["method"] == "DELETE" and path.startswith(DURABLE_CALL):
                    return await self._management(_moved(scope, INVOCATIONS + path[len(DURABLE_CALL) :]), receive, send)
                response = await self._stored(path, scope, receive)
            elif segment in RESERVED:
                response = self._probe(path)
            else:
                response = await self._triggered(scope, receive)
        except CallError as error:
            response = translation.failure(error)
        except ClientGone:
            return
        await respond(send, response)

    async def _call(self, target: Target, scope: Scope, receive: Receive, route: str | None = None) -> Response:
        query: bytes = scope["query_string"]
        address = scope["raw_path"] + b"?" + query if query else scope["raw_path"]
        caller = (
            callers.address(scope["client"], scope["headers"], self._trusted_proxies)
            if target.tells_callers_apart
            else None
        )
        request = translation.request(scope["method"], address, scope["headers"], route, caller)
        payload = await read_body(receive, request.length, self._body_limit)
        reply = await self._calls.call(target, payload, request.block, request.timeout_ms)
        return translation.response(reply.headers, reply.payload)

    async def _stored(self, path: str, scope: Scope, receive: Receive) -> Response:
        method: str = scope["method"]
        if method != "POST":
            allow = b"DELETE, POST" if path.startswith(DURABLE_CALL) else b"POST"
            error = CallError(ErrorType.METHOD_NOT_ALLOWED, f"{method} is not taken here", component=COMPONENT)
            return translation.failure(error, (b"allow", allow))
        if path.startswith(EVENT):
            return await self._durable.event(path[len(EVENT) :], scope, receive)
        return await self._durable.call(path[len(DURABLE_CALL) :].partition("/")[0], scope, receive)

    async def _triggered(self, scope: Scope, receive: Receive) -> Response:
        method: str = scope["method"]
        found = self._known.routes().find(method, scope["raw_path"].decode("ascii"))
        if found is None:
            raise CallError(ErrorType.NOT_FOUND, f"nothing is at {scope['path']}", component=COMPONENT)
        if isinstance(found, NotAllowed):
            error = CallError(ErrorType.METHOD_NOT_ALLOWED, f"{method} is not taken here", component=COMPONENT)
            return translation.failure(error, (b"allow", ", ".join(found.allow).encode()))
        target = await self._calls.find(found.function)
        return await self._call(target, scope, receive, urlencode(found.parameters))

    def _probe(self, path: str) -> Response:
        if path == "/healthz":
            return _status(200, b"ok")
        if path == "/readyz":
            return _status(200, b"ready") if self._ready() else _status(503, b"not ready")
        raise CallError(ErrorType.NOT_FOUND, f"nothing is at {path}", component=COMPONENT)


def _moved(scope: Scope, path: str) -> Scope:
    """The same request to another path."""
    return {**scope, "path": path, "raw_path": quote(path).encode()}


def _status(code: int, word: bytes) -> Response:
    body = b'{"status":"%b"}' % word
    return Response(code, [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))], body)
