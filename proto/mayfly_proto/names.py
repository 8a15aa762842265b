"""What a function, version, node or instance may be called, and how a call names its target.

A function's name is 1 to 4 tokens of ``[a-z0-9-]`` joined by dots (``billing.charge``): the dots are the namespace,
so that NATS permissions and wildcards (``fn.billing.>``) work on it.
"""

import re

PART = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
FUNCTION = re.compile(rf"{PART}(?:\.{PART}){{0,3}}")
NODE = re.compile(PART)
LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?")  # what a node's label is called, and its value

EVENT = re.compile(r"[^\s.*>\x00-\x20\x7f]+(?:\.[^\s.*>\x00-\x20\x7f]+)*")
EVENT_LIMIT = 1000  # characters

FUNCTION_RULE = "1 to 4 parts of a-z, 0-9 and '-', joined by dots, each part 1 to 63 long (for example billing.charge)"
EVENT_RULE = "words joined by dots, without spaces, * and > (for example orders.eu.created)"
NODE_RULE = "a-z, 0-9 and '-', 1 to 63 long"

LABEL_RULE = "letters, digits and ./_-, 1 to 63 long, the first and last a letter or digit"


class InvalidName(ValueError):
    """The name does not follow the rule that the message states."""


def check_function(name: str) -> str:
    """Return ``name`` or raise `InvalidName` with the rule."""
    if not FUNCTION.fullmatch(name):
        raise InvalidName(f"function name {name!r}: must be {FUNCTION_RULE}")
    return name


def check_node(name: str) -> str:
    """Return ``name`` or raise `InvalidName` with the rule; routers are named by the same rule."""
    if not NODE.fullmatch(name):
        raise InvalidName(f"node name {name!r}: must be {NODE_RULE}")
    return name


def check_event(name: str) -> str:
    """What an event's subject is called below ``event.``: return it or raise `InvalidName` with the rule."""
    if len(name) > EVENT_LIMIT or not name.isprintable() or not EVENT.fullmatch(name):
        raise InvalidName(f"event {name[:100]!r}: must be {EVENT_RULE}")
    return name


def parse_target(target: str) -> tuple[str, int | None]:
    """Split ``hello`` or ``hello@3`` into function and version (None: the current one). Raises `InvalidName`."""
    name, at, version = target.partition("@")
    check_function(name)
    if not at:
        return name, None
    if not version.isascii() or not version.isdigit() or int(version) < 1:
        raise InvalidName(f"version {version!r} of {target!r}: must be a number from 1")
    return name, int(version)


def consumer_name(function: str) -> str:
    """A function's name as NATS allows it in a consumer's name or a file name (no dots)."""
    return function.replace(".", "_")
