"""Times as options take them: ``10m`` from now, or a moment."""

import re
from datetime import datetime

import click

_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)([smhd]?)", re.ASCII)
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}


class Duration(click.ParamType[float]):
    """Becomes seconds."""

    name = "duration"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> float:
        match = _DURATION.fullmatch(value)
        if match is None:
            self.fail(f"{value!r}: must be like 30s, 10m, 2h, 7d, or a number of seconds", param, ctx)
        return float(match[1]) * _SECONDS[match[2]]


class Moment(click.ParamType[str]):
    """Becomes RFC 3339; without a zone it is this machine's."""

    name = "time"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return datetime.fromisoformat(value).astimezone().isoformat()
        except (ValueError, OverflowError):
            self.fail(f"{value!r}: must be like 2026-01-31T12:00:00Z or 2026-01-31T12:00", param, ctx)
