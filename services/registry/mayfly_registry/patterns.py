"""Subjects as users write them, and names of functions with wildcards: what is one, and which of them overlap."""

import re

from mayfly_proto import names

LENGTH_LIMIT = 200

_WORD = r"[^\s.*>\x00-\x1f\x7f]+"
_SUBJECT = re.compile(rf"{_WORD}(?:\.{_WORD})*")
_PATTERN = re.compile(rf"(?:\*|{_WORD})(?:\.(?:\*|{_WORD}))*(?:\.>)?|>")
_FUNCTIONS = re.compile(rf"(?:\*|{names.PART})(?:\.(?:\*|{names.PART}))*(?:\.>)?|>")

RULE = "words joined by dots, * for one of them, > for the rest"
PLAIN_RULE = "words joined by dots, without wildcards"


def is_pattern(text: str) -> bool:
    return len(text) <= LENGTH_LIMIT and _PATTERN.fullmatch(text) is not None


def is_plain(text: str) -> bool:
    return len(text) <= LENGTH_LIMIT and _SUBJECT.fullmatch(text) is not None


def is_function_pattern(text: str) -> bool:
    return len(text) <= LENGTH_LIMIT and _FUNCTIONS.fullmatch(text) is not None


def overlap(one: str, other: str) -> bool:
    """Whether there is a subject that both patterns stand for."""
    ours, theirs = one.split("."), other.split(".")
    for left, right in zip(ours, theirs, strict=False):
        if ">" in (left, right):
            return True
        if left != right and "*" not in (left, right):
            return False
    return len(ours) == len(theirs)
