"""How a command fails: one line on stderr that says what to do, and an exit code that scripts can rely on."""

import json
from enum import IntEnum

import click


class Exit(IntEnum):
    PLATFORM = 1
    USAGE = 2
    FUNCTION = 3
    NOT_FOUND = 4
    TIMED_OUT = 5
    THROTTLED = 6


_BY_TYPE = {
    "function_error": Exit.FUNCTION,
    "bad_result": Exit.FUNCTION,
    "instance_crashed": Exit.FUNCTION,
    "out_of_memory": Exit.FUNCTION,
    "init_failed": Exit.FUNCTION,
    "not_found": Exit.NOT_FOUND,
    "deadline_exceeded": Exit.TIMED_OUT,
    "function_timeout": Exit.TIMED_OUT,
    "throttled": Exit.THROTTLED,
}


class Failure(click.ClickException):
    """``detail`` (a traceback) goes before the line."""

    def __init__(self, message: str, exit_code: int = Exit.PLATFORM, detail: str = "") -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc] # click reads it from the instance
        self.detail = detail

    def show(self, file: object = None) -> None:
        if self.detail:
            click.echo(self.detail.rstrip(), err=True)
        click.echo(f"Error: {self.message}", err=True)


def failure_of(status: int, body: bytes, retry_after: str | None = None) -> Failure | None:
    """The platform's error that a reply carries; None when it carries none. ``retry_after``: the header, in seconds."""
    try:
        error = json.loads(body)["error"]
        message, kind, code = error["message"], error["type"], error["code"]
    except (ValueError, KeyError, TypeError):
        return None
    if code != status:
        return None
    again = f"; try again in {retry_after} s" if retry_after and kind == "throttled" else ""
    return Failure(f"{message} ({code} {kind}){again}", _BY_TYPE.get(kind, Exit.PLATFORM), error.get("traceback", ""))
