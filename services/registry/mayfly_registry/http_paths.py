"""Path templates of http triggers: what they may look like, and which of them exclude each other.

A template is ``/orders/{id}``: segments that are literal or a parameter, which takes exactly one segment. Two templates
conflict when they have the same shape (literals equal, parameters in the same places) and share a method: no request
could tell them apart. ``/orders/new`` beside ``/orders/{id}`` is no conflict: the literal wins.
"""

import re
from collections.abc import Iterable, Mapping

from mayfly_proto.records import Trigger

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
PLATFORM = ("function", "async-function", "event", "api", "docs", "openapi.json", "healthz", "readyz", "metrics")

LENGTH_LIMIT = 256
_LITERAL = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:@-]+")
_PARAMETER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")

Shape = tuple[str, ...]  # the segments, each parameter as "{}"


class InvalidPath(ValueError):
    """``str()`` says what would be right."""


def shape(template: str) -> Shape:
    """The template's shape. Raises `InvalidPath`."""
    if not template.startswith("/"):
        raise InvalidPath("must start with /, for example /orders/{id}")
    if len(template) > LENGTH_LIMIT:
        raise InvalidPath(f"is {len(template)} characters long: at most {LENGTH_LIMIT}")
    if template == "/":
        return ()
    segments = template[1:].split("/")
    if segments[0] in PLATFORM:
        raise InvalidPath(f"/{segments[0]} belongs to the platform: choose another first segment")
    return _segments(segments)


def _segments(segments: list[str]) -> Shape:
    found: list[str] = []
    parameters: set[str] = set()
    for segment in segments:
        parameter = _PARAMETER.fullmatch(segment)
        if parameter is None:
            if not _LITERAL.fullmatch(segment) or segment in (".", ".."):
                raise InvalidPath(f"segment {segment!r} must be a plain word or one parameter, as in /orders/{{id}}")
            found.append(segment)
            continue
        if parameter[1] in parameters:
            raise InvalidPath(f"parameter {parameter[1]!r} comes twice")
        parameters.add(parameter[1])
        found.append("{}")
    return tuple(found)


def overlap(one: Trigger, other: Trigger) -> bool:
    """Whether some request fits both equally well. Both are http triggers."""
    if shape(one.http) != shape(other.http):
        return False
    return not one.methods or not other.methods or not set(one.methods).isdisjoint(other.methods)


def conflicts(triggers: Iterable[Trigger], others: Mapping[str, Iterable[Trigger]]) -> list[str]:
    """What ``triggers`` may not be, given other functions' triggers by name: one sentence for each conflict.

    Those of other kinds than http are passed over.
    """
    return [
        f"triggers: {describe(trigger)} is taken: function {name} has {describe(theirs)}"
        for trigger in triggers
        for name, trigger_list in sorted(others.items())
        for theirs in trigger_list
        if trigger.http and theirs.http and overlap(trigger, theirs)
    ]


def describe(trigger: Trigger) -> str:
    """``GET|PUT /orders/{id}``, or the path alone when any method will do."""
    return f"{'|'.join(trigger.methods)} {trigger.http}" if trigger.methods else trigger.http
