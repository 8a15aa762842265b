"""What pydantic finds wrong with a manifest, as sentences: field, value, what would be right.

memory: 5 is too small: at least 16 (MB)
"""

import json
import re
from collections.abc import Sequence
from difflib import get_close_matches

from pydantic_core import ErrorDetails, PydanticCustomError

_UNITS = {
    "memory": " (MB)",
    **dict.fromkeys(
        (
            "timeout",
            "retries.backoff",
            "retries.max_backoff",
            "retries.max_age",
            "batch.window",
            "idempotency_ttl",
        ),
        " (s)",
    ),
}

_KINDS = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "a string (in quotes)",
    "list_type": "a list",
    "dict_type": "a table",
    "model_type": "a table",
}

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def wrong(what: str) -> PydanticCustomError:
    """To raise in a validator: ``what`` becomes the sentence after the field's name."""
    return PydanticCustomError("mayfly", "{sentence}", {"sentence": what})


def shown(value: object) -> str:
    """A value as the user wrote it, cut short."""
    try:
        text = json.dumps(value, ensure_ascii=False, default=repr)
    except (ValueError, RecursionError):  # thousands of digits, thousands of brackets
        text = f"this {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}..."


def sentence(problem: ErrorDetails, known: Sequence[str]) -> str:
    """``known``: the names that an unknown one is compared with."""
    field = _path(problem["loc"])
    if problem["type"] == "extra_forbidden":
        near = get_close_matches(str(problem["loc"][-1]), known, n=1)
        return f"{field}: no such setting: " + (f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}")
    what = _what(problem, secret=field.startswith("env"), unit=_UNITS.get(field, ""))
    return f"{field}: {what}" if field else what


def _what(problem: ErrorDetails, *, secret: bool, unit: str) -> str:
    bound = problem.get("ctx", {})
    value = "this value" if secret else shown(problem["input"])
    match problem["type"]:
        case "mayfly":
            return str(bound["sentence"])
        case "missing":
            return "is missing"
        case "greater_than_equal":
            return f"{value} is too small: at least {bound['ge']:.15g}{unit}"
        case "less_than_equal":
            return f"{value} is too large: at most {bound['le']:.15g}{unit}"
        case "literal_error":
            return f"{value} is not given by this platform: must be {bound['expected']}"
        case "too_long":
            return f"{bound['actual_length']} are too many: at most {bound['max_length']}"
        case "string_too_long":
            return f"{len(problem['input'])} characters are too many: at most {bound['max_length']}"
        case kind:
            return f"{value} must be {_KINDS.get(kind, 'something else')}"


def _path(loc: tuple[int | str, ...]) -> str:
    """``triggers[0].http``"""
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc)
    return _CONTROL.sub("?", path.removeprefix("."))[:100]
