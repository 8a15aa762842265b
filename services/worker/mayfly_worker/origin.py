"""What is published or called on behalf of an event carries where it came from; code cannot say otherwise."""

from mayfly_proto import headers
from mayfly_proto.errors import CallError, ErrorType
from mayfly_worker.replies import COMPONENT


def passed_on(own: dict[str, str], raw: bytes | None, invocation: str, function: str) -> dict[str, str]:
    """The headers of what code publishes or calls while it handles the message that had ``raw``: that one's
    CloudEvents attributes, but for those among its ``own``, these, and how it came to be.

    Raises `CallError` (loop) for what has come through too many functions.
    """
    depth = _depth(raw)
    if depth >= headers.DEPTH_LIMIT:
        sentence = f"this event has come through {depth} functions before this one: it seems to go in a circle"
        raise CallError(ErrorType.LOOP, sentence, component=COMPONENT)
    given = {name.lower() for name in own}
    attributes = {
        name: value
        for name, value in headers.parse(raw).items()
        if name.lower().startswith(headers.CLOUD_EVENT) and name.lower() not in given
    }
    ours = {headers.DEPTH: str(depth + 1), headers.SOURCE: invocation, headers.SOURCE_FUNCTION: function}
    return attributes | own | ours


def _depth(raw: bytes | None) -> int:
    value = headers.find(raw, headers.DEPTH.encode()) if raw else None
    if not value or not value.isdigit():
        return 0
    return int(value) if len(value) < 4 else headers.DEPTH_LIMIT
