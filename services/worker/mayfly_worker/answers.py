"""What an instance is told of what it asked for."""

from typing import Any, NamedTuple

from mayfly_chassis import errors as bus_errors
from mayfly_proto.errors import CallError, ErrorType
from mayfly_worker.replies import COMPONENT


class Answer(NamedTuple):
    value: Any = None
    payload: bytes = b""


def failed(error: Exception) -> CallError:
    """What went wrong while it was carried out, as the code that asked is told."""
    match error:
        case CallError():
            return error
        case TimeoutError():
            return _error(ErrorType.DEADLINE_EXCEEDED, "the call's time is over")
        case bus_errors.KeyExists() | bus_errors.WrongRevision():
            return _error(ErrorType.CONFLICT, str(error))
        case bus_errors.ObjectNotFound():
            return _error(ErrorType.NOT_FOUND, str(error))
        case bus_errors.TooMany() | bus_errors.MessageTooLarge() | bus_errors.ObjectTooLarge():
            return _error(ErrorType.TOO_LARGE, str(error))
        case _:
            return _error(ErrorType.UNAVAILABLE, str(error) or type(error).__name__)


def described(error: CallError) -> tuple[str, int, str]:
    """As an ANSWER has it: type, code, sentence."""
    return error.kind.value, error.kind.code, error.message


def over() -> CallError:
    return _error(ErrorType.CONFLICT, "the call is over: ask while its handler runs")


def missing(kind: str, name: str) -> CallError:
    return _error(ErrorType.NOT_FOUND, f"there is no {kind} {name}")


def _error(kind: ErrorType, sentence: str) -> CallError:
    return CallError(kind, sentence, component=COMPONENT)
