"""Answers that the router gives to callers by itself: errors, and the word that a version can be called."""

from mayfly_chassis.bus import Bus
from mayfly_proto import headers
from mayfly_proto.errors import CallError, ErrorType
from mayfly_router import throttle

COMPONENT = "router"


LONGEST_TIMEOUT_MS = 24 * 3600 * 1000


def fail(bus: Bus, reply: str, error: CallError, version: int = 0) -> None:
    """Answer with an error. Nothing happens when nobody waits for an answer."""
    if reply:
        extra = {headers.VERSION: str(version)} if version else None
        bus.publish(reply, error.body(), headers=error.headers(extra))


def probe(bus: Bus, reply: bytes, version: int) -> None:
    """Say that this version can be called."""
    if reply:
        bus.publish(reply, headers=headers.block({headers.VERSION: str(version)}))


def not_found(function: str, version: int, invocation: str) -> CallError:
    what = f"version {version} of function {function!r}" if version else f"function {function!r}"
    return CallError(ErrorType.NOT_FOUND, f"there is no {what}", component=COMPONENT, invocation=invocation)


def bad_timeout(value: str, invocation: str) -> CallError:
    message = f"{headers.TIMEOUT_MS}: {value[:40]!r} must be a number of milliseconds from 1 to {LONGEST_TIMEOUT_MS}"
    return CallError(ErrorType.BAD_REQUEST, message, component=COMPONENT, invocation=invocation)


def too_large(size: int, limit: int, headers_size: int, invocation: str) -> CallError:
    what = f"the event has {size} bytes, the limit is {limit}"
    message = what if size > limit else f"the headers have {headers_size} bytes, which is too many"
    return CallError(ErrorType.TOO_LARGE, message, component=COMPONENT, invocation=invocation)


def queue_full(function: str, wait_s: float, invocation: str) -> CallError:
    return _throttled(f"too many calls of {function!r} wait already", wait_s, invocation)


def wait_too_long(function: str, wait_s: float, invocation: str) -> CallError:
    return _throttled(f"calls of {function!r} wait for {wait_s:.0f} s by now", wait_s, invocation)


def too_often(function: str, wait_s: float, invocation: str) -> CallError:
    return _throttled(f"{function!r} is called more often than its limit allows", wait_s, invocation)


def _throttled(message: str, wait_s: float, invocation: str) -> CallError:
    retry_after_s = throttle.retry_after_s(wait_s)
    return CallError(
        ErrorType.THROTTLED,
        f"{message}; try again in {retry_after_s} s",
        component=COMPONENT,
        invocation=invocation,
        retry_after_s=retry_after_s,
    )


def waited_too_long(function: str, waited_s: float, invocation: str) -> CallError:
    message = f"no instance of {function!r} was free in the {waited_s:.1f} s until the caller's deadline"
    return CallError(ErrorType.DEADLINE_EXCEEDED, message, component=COMPONENT, invocation=invocation)


def no_capacity(function: str, reason: str, invocation: str) -> CallError:
    message = f"no node can start an instance of {function!r}: {reason}"
    return CallError(ErrorType.NO_CAPACITY, message, component=COMPONENT, invocation=invocation, retry_after_s=1)


def node_lost(node: str, invocation: str) -> CallError:
    message = f"node {node!r} was lost with the call in it"
    return CallError(ErrorType.NODE_LOST, message, component=COMPONENT, invocation=invocation)


def unreachable(invocation: str) -> CallError:
    message = "NATS does not say whether the call with this idempotency key is the first"
    return CallError(ErrorType.UNAVAILABLE, message, component=COMPONENT, invocation=invocation, retry_after_s=1)


def stopping(invocation: str) -> CallError:
    message = "the router is stopping and there is no other"
    return CallError(ErrorType.UNAVAILABLE, message, component=COMPONENT, invocation=invocation, retry_after_s=1)


def init_failed(failure: CallError, invocation: str) -> CallError:
    """The reason for which starts fail, addressed to one of those who wait."""
    return CallError(
        failure.kind,
        failure.message,
        component=failure.component,
        invocation=invocation,
        traceback=failure.traceback,
    )
