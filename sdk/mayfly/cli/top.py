"""``mayfly top``: what there is to do, and who does it, once a second.

It asks the gateway, as every command does, and not NATS, from where the gateway has it: so it works from any machine by
address and token, needs no NATS credential, and what it shows is what the API says.
"""

import json
import signal
import time
from types import FrameType
from typing import Any, NoReturn

import click

from mayfly.cli import api, screen, terminal
from mayfly.cli.failure import Failure
from mayfly.cli.output import in_colour, output_option

_EVERY_S = 1.0


@click.command()
@click.option("--once", is_flag=True, help="Print it once and end.")
@api.platform_option
@output_option
def top(once: bool, data: str | None, output: str) -> None:
    """Show nodes and functions, busiest first, once a second, until q or Ctrl-C.

    Rates, errors and 429s are those of the last ten seconds. Piped, tables follow one another. With -o json one object
    with two lists, once.
    """
    platform = api.find(data)
    nodes, functions = _look(platform)
    if output == "json":
        click.echo(json.dumps({"nodes": nodes, "functions": functions}, indent=2))
    elif once:
        click.echo("\n".join(screen.lines(nodes, functions, bold=in_colour())))
    else:
        signal.signal(signal.SIGTERM, _leave)  # the terminal is given back
        try:
            _live(platform) if terminal.can_redraw() else _print(platform)
        except KeyboardInterrupt:
            return


def _live(platform: api.Api) -> None:
    with terminal.screen():
        shown = [f"{platform.url}: the first look"]
        while True:
            try:
                rows = terminal.height() - 2
                shown = screen.lines(*_look(platform), rows, bold=in_colour())
                note = f"{platform.url}  {time.strftime('%H:%M:%S')}  q ends"
            except Failure as failure:  # it may be just starting again
                note = failure.message
            terminal.draw([note, *shown])
            if terminal.pressed(f"q{terminal.CTRL_C}", _EVERY_S):
                return


def _print(platform: api.Api) -> NoReturn:
    while True:
        click.echo("\n".join([*screen.lines(*_look(platform)), ""]))
        time.sleep(_EVERY_S)


def _look(platform: api.Api) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    return platform.get("nodes"), platform.get("load")


def _leave(_number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + signal.SIGTERM)
