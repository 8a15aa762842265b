"""Functions as a service on NATS: what one imports. The command is `mayfly.cli`.

Nothing is loaded before it is asked for, so that `import mayfly` costs next to nothing inside a function.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mayfly.client import Client, NoResultYet, Result
    from mayfly.context import AsyncContext, Context, Http
    from mayfly_proto.errors import CallError, ErrorType

__all__ = ["AsyncContext", "CallError", "Client", "Context", "ErrorType", "Http", "NoResultYet", "Result"]

_HOMES = {
    "CallError": "mayfly_proto.errors",
    "ErrorType": "mayfly_proto.errors",
    "Client": "mayfly.client",
    "NoResultYet": "mayfly.client",
    "Result": "mayfly.client",
    "AsyncContext": "mayfly.context",
    "Context": "mayfly.context",
    "Http": "mayfly.context",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
