"""``mayfly logs``."""

import click

from mayfly.cli import api
from mayfly.cli.follow import Line, tell
from mayfly.cli.output import in_colour, output_option

_COLOURS = {"stderr": "yellow", "platform": "cyan"}


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
    path = f"{api.function_path(name)}/logs"
    tell(api.find(data), path, output, _text, follow=follow, since=since, tail=tail)


def _text(line: Line) -> str:
    text = f"{line['time']}  {line['instance']}  {line['line']}"
    colour = _COLOURS.get(line["stream"])
    return click.style(text, fg=colour) if colour and in_colour() else text
