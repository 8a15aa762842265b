"""What a handler gets beside its event, for type hints: ``def handler(event: dict, context: mayfly.Context)``.

The names of AWS Lambda's context are there too, so that a handler written for it runs unchanged.
"""

from collections.abc import Mapping
from typing import Protocol


class Http(Protocol):
    """The request of a call that came by HTTP."""

    @property
    def method(self) -> str: ...

    @property
    def path(self) -> str: ...

    @property
    def query(self) -> Mapping[str, str]: ...

    @property
    def headers(self) -> Mapping[str, str]: ...

    @property
    def params(self) -> Mapping[str, str]:
        """What the trigger's path template names: ``/orders/{id}`` gives ``{"id": "7"}``."""


class Context(Protocol):
    @property
    def aws_request_id(self) -> str:
        """The same as `invocation`, under Lambda's name."""

    @property
    def function_name(self) -> str: ...

    @property
    def function_version(self) -> str: ...

    @property
    def memory_limit_in_mb(self) -> int: ...

    def get_remaining_time_in_millis(self) -> int:
        """Until `deadline`, when this instance is killed and the caller is told that the function timed out."""

    @property
    def invocation(self) -> str:
        """The id of this call: in the caller's reply, in every log line, in every error."""

    @property
    def deadline(self) -> float:
        """Unix time in seconds."""

    @property
    def headers(self) -> Mapping[str, str]:
        """The caller's message headers."""

    @property
    def attempt(self) -> int:
        """1 for the first; above for a call that is run again."""

    @property
    def cold(self) -> bool:
        """Whether this is the instance's first call."""

    @property
    def http(self) -> Http | None:
        """None for a call that did not come by HTTP."""
