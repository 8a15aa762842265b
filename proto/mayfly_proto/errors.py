"""Errors as they go over the wire: a code that HTTP also knows, a stable type, a safe sentence.

`CallError` is the one exception; `ErrorType` names its kinds, and each kind has one code.
"""

from enum import Enum

import msgspec

from mayfly_proto import headers


class ErrorType(Enum):
    """Stable names that clients may rely on; `code` is the one code of each."""

    BAD_REQUEST = "bad_request"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    DEADLINE_EXCEEDED = "deadline_exceeded"  # the caller's deadline passed while the call waited
    CONFLICT = "conflict"
    LOOP = "loop"  # an event that came through too many functions
    TOO_LARGE = "too_large"
    THROTTLED = "throttled"
    FUNCTION_ERROR = "function_error"  # the function raised
    BAD_RESULT = "bad_result"  # what it returned cannot be serialised
    INTERNAL = "internal"
    INSTANCE_CRASHED = "instance_crashed"
    OUT_OF_MEMORY = "out_of_memory"
    NODE_LOST = "node_lost"
    INIT_FAILED = "init_failed"
    NO_CAPACITY = "no_capacity"
    UNAVAILABLE = "unavailable"
    FUNCTION_TIMEOUT = "function_timeout"

    @property
    def code(self) -> int:
        return _CODES[self]


_CODES = {
    ErrorType.BAD_REQUEST: 400,
    ErrorType.UNAUTHORIZED: 401,
    ErrorType.FORBIDDEN: 403,
    ErrorType.NOT_FOUND: 404,
    ErrorType.METHOD_NOT_ALLOWED: 405,
    ErrorType.DEADLINE_EXCEEDED: 408,
    ErrorType.CONFLICT: 409,
    ErrorType.LOOP: 508,
    ErrorType.TOO_LARGE: 413,
    ErrorType.THROTTLED: 429,
    ErrorType.FUNCTION_ERROR: 500,
    ErrorType.BAD_RESULT: 500,
    ErrorType.INTERNAL: 500,
    ErrorType.INSTANCE_CRASHED: 502,
    ErrorType.OUT_OF_MEMORY: 502,
    ErrorType.NODE_LOST: 502,
    ErrorType.INIT_FAILED: 502,
    ErrorType.NO_CAPACITY: 503,
    ErrorType.UNAVAILABLE: 503,
    ErrorType.FUNCTION_TIMEOUT: 504,
}


class ErrorDetail(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    code: int
    type: str
    message: str
    component: str
    invocation: str = ""
    traceback: str = ""


class ErrorBody(msgspec.Struct, frozen=True):
    error: ErrorDetail


class CallError(Exception):
    """A call that was answered by an error. ``str()`` is the safe sentence; nothing here holds a secret."""

    def __init__(
        self,
        kind: ErrorType,
        message: str,
        *,
        component: str,
        invocation: str = "",
        traceback: str = "",
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.component = component
        self.invocation = invocation
        self.traceback = traceback
        self.retry_after_s = retry_after_s

    def body(self) -> bytes:
        """The JSON body; never empty."""
        return msgspec.json.encode(ErrorBody(self.detail()))

    def detail(self) -> ErrorDetail:
        return ErrorDetail(
            code=self.kind.code,
            type=self.kind.value,
            message=self.message,
            component=self.component,
            invocation=self.invocation,
            traceback=self.traceback,
        )

    def headers(self, extra: dict[str, str] | None = None) -> bytes:
        """The NATS header block that goes with `body`."""
        fields = {
            headers.SERVICE_ERROR: self.message[:200],
            headers.SERVICE_ERROR_CODE: str(self.kind.code),
            headers.CONTENT_TYPE: "application/json",
        }
        if self.invocation:
            fields[headers.INVOCATION] = self.invocation
        if self.retry_after_s is not None:
            fields[headers.RETRY_AFTER] = str(self.retry_after_s)
        return headers.block(fields | (extra or {}))


def from_reply(raw_headers: bytes | None, payload: bytes) -> CallError | None:
    """The error that a reply carries, or None for a result."""
    if not raw_headers:
        return None
    code = headers.find(raw_headers, headers.SERVICE_ERROR_CODE.encode())
    if code is None:
        return None
    retry_after = headers.find(raw_headers, headers.RETRY_AFTER.encode())
    try:
        error = from_detail(msgspec.json.decode(payload, type=ErrorBody).error)
    except (msgspec.MsgspecError, ValueError):
        sentence = headers.find(raw_headers, headers.SERVICE_ERROR.encode()) or b""
        kind = next((k for k in ErrorType if str(k.code).encode() == code), ErrorType.INTERNAL)
        return CallError(kind, sentence.decode("utf-8", "replace"), component="unknown")
    error.retry_after_s = int(retry_after) if retry_after and retry_after.isdigit() else None
    return error


def from_detail(detail: ErrorDetail) -> CallError:
    """Raises ValueError for a type that is not ours."""
    return CallError(
        ErrorType(detail.type),
        detail.message,
        component=detail.component,
        invocation=detail.invocation,
        traceback=detail.traceback,
    )
