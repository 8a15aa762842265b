"""What a caller gets: a result with as few headers as can be (each costs the caller's client time), or an error.

User code may put any frame on its socket: that header lines are lines is checked where they come in, what they may be
here.
"""

from mayfly_proto import headers
from mayfly_proto.errors import CallError, ErrorType

MAX_EXTRA_HEADERS = 32 * 1024
MAX_MESSAGE = 4 * 1024
MAX_TRACEBACK = 32 * 1024  # the end of it says most

COMPONENT = "worker"
FUNCTION = "function"  # the component of errors that its code makes

_CONTENT_TYPES = ("", "text/plain; charset=utf-8", "application/octet-stream")  # JSON goes without saying
_FROM_FUNCTION = {
    kind.value: kind
    for kind in (
        ErrorType.FUNCTION_ERROR,
        ErrorType.BAD_RESULT,
        ErrorType.BAD_REQUEST,
        ErrorType.TOO_LARGE,
        ErrorType.LOOP,  # what it called or published was refused for that
        ErrorType.OUT_OF_MEMORY,  # a MemoryError that the process survived
    )
}


def _tail(start: str, content_type: str) -> bytes:
    last = f"{headers.CONTENT_TYPE}: {content_type}\r\n" if content_type else ""
    return f"\r\n{headers.START}: {start}\r\n{last}".encode()


_HEAD = headers.PROLOGUE + f"{headers.INVOCATION}: ".encode()
_WARM = tuple(_tail(headers.WARM, content_type) for content_type in _CONTENT_TYPES)
_COLD = tuple(_tail(headers.COLD, content_type) for content_type in _CONTENT_TYPES)
_COLD_TAIL = f"{headers.VERSION}: %d\r\n{headers.DURATION_MS}: %.3f\r\n".encode()


def warm(invocation: str, content_type: int, extra: bytes | None) -> bytes:
    """The header block of a result."""
    return b"%b%b%b%b\r\n" % (_HEAD, invocation.encode(), _WARM[content_type], extra or b"")


def cold(invocation: str, content_type: int, extra: bytes | None, version: int, duration_ms: float) -> bytes:
    """The header block of an instance's first result."""
    tail = _COLD_TAIL % (version, duration_ms)
    return b"%b%b%b%b%b\r\n" % (_HEAD, invocation.encode(), _COLD[content_type], tail, extra or b"")


def details(cold: bool, version: int, duration_ms: float) -> dict[str, str]:
    """The further headers of an error."""
    return {
        headers.START: headers.COLD if cold else headers.WARM,
        headers.VERSION: str(version),
        headers.DURATION_MS: f"{duration_ms:.3f}",
    }


def objection(content_type: int, extra: bytes | None, size: int, limit: int) -> CallError | None:
    """Why this result cannot be sent."""
    if size > limit:
        sentence = f"the result has {size} bytes, more than the {limit} that a message may carry"
        return CallError(ErrorType.TOO_LARGE, sentence, component=FUNCTION)
    if not 0 <= content_type < len(_CONTENT_TYPES):
        return CallError(ErrorType.BAD_RESULT, "the result is of an unknown type", component=FUNCTION)
    if extra and len(extra) > MAX_EXTRA_HEADERS:
        sentence = f"the result's headers have {len(extra)} bytes, more than {MAX_EXTRA_HEADERS}"
        return CallError(ErrorType.BAD_RESULT, sentence, component=FUNCTION)
    return None


def from_function(kind: str, message: str, traceback: str) -> CallError:
    """The error that a handler raised; it cannot pass for one of the platform's."""
    return CallError(
        _FROM_FUNCTION.get(kind, ErrorType.FUNCTION_ERROR),
        message[:MAX_MESSAGE],
        component=FUNCTION,
        traceback=traceback[-MAX_TRACEBACK:],
    )
