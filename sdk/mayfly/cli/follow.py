"""Lines of JSON that the platform keeps, and goes on with: logs, and what the scaler decides."""

import json
from collections.abc import Callable, Iterator
from http.client import HTTPResponse
from typing import Any

import click

from mayfly.cli import api

_INTERRUPTED = 130

Line = dict[str, Any]


def tell(
    platform: api.Api,
    path: str,
    output: str,
    text: Callable[[Line], str],
    *,
    follow: bool,
    since: str | None,
    tail: int | None,
) -> None:
    """As ``text`` has it; with output json a list, or one object a line when it follows, until Ctrl-C."""
    query = {"follow": str(follow).lower(), "since": since, "tail": tail}
    wait_s = None if follow else api.MANAGEMENT_TIMEOUT_S
    with platform.send("GET", f"/api/v1/{path}", {}, None, query=query, timeout_s=wait_s) as reply:
        lines = _lines(reply)
        if output == "json" and not follow:
            click.echo(json.dumps(list(lines), indent=2))
            return
        try:
            for line in lines:
                click.echo(json.dumps(line) if output == "json" else text(line))
        except KeyboardInterrupt:
            raise SystemExit(_INTERRUPTED) from None


def _lines(reply: HTTPResponse) -> Iterator[Line]:
    return (json.loads(line) for line in reply)
