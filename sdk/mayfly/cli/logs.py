"""``mayfly logs``."""

import click

from mayfly.cli import api
from mayfly.cli.output import output_option

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@click.command()
@click.argument("name")
@click.option("-f", "--follow", is_flag=True, help="Go on with new lines until Ctrl-C.")
@click.option("--since", metavar="AGE", help="Only lines younger than this: 30s, 5m, 2h, 1d.")
@click.option("--tail", type=click.IntRange(min=0), metavar="N", help="Only the last N lines.")
@api.platform_option
@output_option
def logs(name: str, follow: bool, since: str | None, tail: int | None, data: str | None, output: str) -> None:
    """Show what NAME wrote to stdout and stderr, and what the platform has to say about it."""
