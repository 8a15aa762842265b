"""``mayfly logs``."""

import json
from collections.abc import Iterator
from http.client import HTTPResponse
from typing import Any

import click

from mayfly.cli import api
from mayfly.cli.output import in_colour, output_option

_COLOURS = {"stderr": "yellow", "platform": "cyan"}
_INTERRUPTED = 130


@click.command()
@click.argument("name")
@click.option("-f", "--follow", is_flag=True, help="Go on with new lines until Ctrl-C.")
@click.option("--since", metavar="WHEN", help="Only newer lines: 30s, 5m, 2h, 7d ago, or a time.")
@click.option("--tail", type=click.IntRange(min=0), metavar="N", help="Only the last N lines.")
@api.platform_option
@output_option
def logs(name: str, follow: bool, since: str | None, tail: int | None, data: str | None, output: str) -> None:
    """Show what NAME wrote to stdout and stderr, and what the platform has to say about it.

    With -o json a list; with -f and -o json one object a line.
    """
    query = {"follow": str(follow).lower(), "since": since, "tail": tail}
    path = f"/api/v1/{api.function_path(name)}/logs"
    wait_s = None if follow else api.MANAGEMENT_TIMEOUT_S
    with api.find(data).send("GET", path, {}, None, query=query, timeout_s=wait_s) as reply:
        lines = _lines(reply)
        if output == "json" and not follow:
            click.echo(json.dumps(list(lines), indent=2))
            return
        try:
            for line in lines:
                click.echo(json.dumps(line) if output == "json" else _text(line))
        except KeyboardInterrupt:
            raise SystemExit(_INTERRUPTED) from None


def _lines(reply: HTTPResponse) -> Iterator[dict[str, Any]]:
    return (json.loads(line) for line in reply)


def _text(line: dict[str, Any]) -> str:
    text = f"{line['time']}  {line['instance']}  {line['line']}"
    colour = _COLOURS.get(line["stream"])
    return click.style(text, fg=colour) if colour and in_colour() else text
