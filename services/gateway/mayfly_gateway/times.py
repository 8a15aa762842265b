"""Moments as strangers write them in headers."""

import re
from datetime import datetime

from mayfly_proto import headers

_RFC_3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_SECONDS = re.compile(r"\d{1,9}(\.\d{1,9})?", re.ASCII)

TIME_RULE = "a time with its zone (RFC 3339), such as 2026-01-31T12:00:00Z"
DELAY_RULE = "a number of seconds, such as 30 or 1.5, and at most a year"


def is_time(text: str) -> bool:
    if not _RFC_3339.fullmatch(text):
        return False
    try:
        datetime.fromisoformat(text.upper())
    except ValueError:
        return False
    return True


def is_delay(text: str) -> bool:
    return _SECONDS.fullmatch(text) is not None and float(text) <= headers.LONGEST_DELAY_S
