"""Why the registry says no. `to_call_error` is the one place where that becomes the wire's error.

Refusal                  400
├── InvalidRequest
├── InvalidManifest      all that is wrong with the settings
├── InvalidPackage
│   └── PackageTooLarge  413
├── InvalidHandler
├── NotFound             404
├── Conflict             409   another function's path, or somebody else's change in between
└── NotRoutable          503   published, and no router has answered for it yet
"""

from typing import ClassVar

from mayfly_chassis.errors import BusError
from mayfly_proto.errors import CallError, ErrorType

COMPONENT = "registry"


class Refusal(ValueError):
    """``str()`` is the sentence that the caller reads."""

    kind: ClassVar[ErrorType] = ErrorType.BAD_REQUEST


class InvalidRequest(Refusal):
    """What was asked for makes no sense."""


class InvalidManifest(Refusal):
    """``problems``: one sentence each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class InvalidPackage(Refusal):
    """What is wrong with the code as uploaded."""


class PackageTooLarge(InvalidPackage):
    """More bytes than may be uploaded."""

    kind = ErrorType.TOO_LARGE


class InvalidHandler(Refusal):
    """The sentence starts with the field's name."""


class NotFound(Refusal):
    """There is no such function, or no such version of it."""

    kind = ErrorType.NOT_FOUND


class Conflict(Refusal):
    """Somebody else has it, or was faster."""

    kind = ErrorType.CONFLICT


class NotRoutable(Refusal):
    """The version is published, and cannot be called yet."""

    kind = ErrorType.UNAVAILABLE


def to_call_error(error: Refusal | BusError) -> CallError:
    if isinstance(error, Refusal):
        return CallError(error.kind, str(error), component=COMPONENT)
    return CallError(ErrorType.UNAVAILABLE, f"the registry's store: {error}", component=COMPONENT)
