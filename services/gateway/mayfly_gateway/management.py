"""The management application: FastAPI behind a token, its documentation without a network.

Everything needs the token but what `_OPEN` names, so a new operation cannot be left unguarded. There is no cookie and
no CORS header: a web page of another origin can neither send the token nor read an answer.
"""

import asyncio
import secrets
from importlib.metadata import version

from fastapi import FastAPI, Request, Response, Security
from fastapi.exceptions import RequestValidationError
from fastapi.security import HTTPBearer
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from mayfly_chassis.bus import Bus
from mayfly_chassis.errors import BusError
from mayfly_chassis.mirror import Mirror
from mayfly_gateway import (
    dead_letters,
    fleet,
    functions,
    inspection,
    invocations,
    nodes,
    openapi,
    shown,
    traffic,
    translation,
    triggers,
)
from mayfly_gateway.asgi import ASGIApp, ClientGone, Receive, Scope, Send, respond
from mayfly_gateway.catalog import Catalog
from mayfly_gateway.registry import Registry
from mayfly_gateway.reports import Reports
from mayfly_gateway.translation import COMPONENT, Field
from mayfly_proto import api, records
from mayfly_proto.errors import CallError, ErrorType

DOCS = "/docs"
DESCRIPTION = "/openapi.json"
_OPEN = (DOCS, DESCRIPTION)
_OPEN_BELOW = f"{DOCS}/"
_CHALLENGE: Field = (b"www-authenticate", b'Bearer realm="mayfly"')


def application(
    bus: Bus, known: Catalog, leases: Mirror, reports: Reports, *, token: str | None, stopping: asyncio.Event
) -> ASGIApp:
    inner: FastAPI = FastAPIOffline(
        title="Mayfly",
        summary="Deploy, list, change and watch functions, and what waits for them or failed",
        version=version("mayfly"),
        docs_url=DOCS,
        openapi_url=DESCRIPTION,
        redoc_url=None,
        static_url=f"{DOCS}/static",
        swagger_ui_parameters={"validatorUrl": None},
        responses=openapi.errors(),
        redirect_slashes=False,
    )
    inner.state.bus, inner.state.known, inner.state.nodes, inner.state.reports = bus, known, leases, reports
    inner.state.registry, inner.state.stopping = Registry(bus), stopping
    inner.state.body_limit = bus.payload_limit
    says_token = Security(HTTPBearer(auto_error=False))  # for the description; it is `Guard` that checks
    for part in (functions, triggers, invocations, dead_letters, inspection, nodes):
        inner.include_router(part.routes, dependencies=[says_token])
    for kind in (CallError, BusError, RequestValidationError, HTTPException, ClientDisconnect, ClientGone, Exception):
        inner.add_exception_handler(kind, _answered)
    openapi.complete(
        inner,
        functions.DeployBody,
        api.DeployReply,
        api.DeleteReply,
        api.FunctionSummary,
        api.FunctionDescription,
        api.VersionSummary,
        records.InstanceRecord,
        records.LogLine,
        records.Decision,
        fleet.Node,
        traffic.FunctionTraffic,
        api.NodeReply,
        api.PauseReply,
        api.Schedule,
        api.DeadLettersChanged,
        shown.Invocation,
        shown.DeadLetter,
    )
    return Guard(inner, token)


class Guard:
    """Lets through who has the token."""

    def __init__(self, inner: ASGIApp, token: str | None) -> None:
        self._inner = inner
        self._token = None if token is None else token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope["path"]
        if path in _OPEN or path.startswith(_OPEN_BELOW) or self._authorised(scope["headers"]):
            await self._inner(scope, receive, send)
        elif self._token is None:
            message = "management is off: the gateway was given no token (MAYFLY_GATEWAY_TOKEN_FILE)"
            await respond(send, translation.failure(CallError(ErrorType.FORBIDDEN, message, component=COMPONENT)))
        else:
            message = "management needs the platform's token, as Authorization: Bearer TOKEN"
            error = CallError(ErrorType.UNAUTHORIZED, message, component=COMPONENT)
            await respond(send, translation.failure(error, _CHALLENGE))

    def _authorised(self, fields: list[Field]) -> bool:
        given = next((value for name, value in fields if name == b"authorization"), b"")
        scheme, _, token = given.partition(b" ")
        if self._token is None or scheme.lower() != b"bearer":
            return False
        return secrets.compare_digest(token.strip(), self._token)


async def _answered(_request: Request, error: Exception) -> Response:
    """Every failure in the one form that errors have."""
    extra: list[Field] = []
    if isinstance(error, HTTPException):
        extra = [(name.lower().encode(), value.encode()) for name, value in (error.headers or {}).items()]
    answer = translation.failure(_call_error(error), *extra)
    response = Response(answer.body, status_code=answer.status)
    response.raw_headers = answer.fields
    return response


def _call_error(error: Exception) -> CallError:
    if isinstance(error, CallError):
        return error
    if isinstance(error, BusError):
        return CallError(ErrorType.UNAVAILABLE, "NATS does not answer", component=COMPONENT, retry_after_s=1)
    if isinstance(error, RequestValidationError):
        problems = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()]
        return CallError(ErrorType.BAD_REQUEST, "; ".join(problems), component=COMPONENT)
    if isinstance(error, HTTPException):
        kind = next((kind for kind in ErrorType if kind.code == error.status_code), ErrorType.BAD_REQUEST)
        return CallError(kind, str(error.detail), component=COMPONENT)
    if isinstance(error, ClientDisconnect | ClientGone):
        return CallError(ErrorType.BAD_REQUEST, "the request broke off", component=COMPONENT)
    return CallError(ErrorType.INTERNAL, "internal error", component=COMPONENT)
