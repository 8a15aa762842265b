"""Commands on what makes functions run: ``pause``, ``resume``, ``schedules``."""

import click

from mayfly.cli import api
from mayfly.cli.output import output_option, show


@click.command()
@click.argument("name")
@api.platform_option
def pause(name: str, data: str | None) -> None:
    """Let events and durable calls of NAME wait. None is lost; calls that are waited for go on."""
    reply = api.find(data).call("POST", f"{api.function_path(name)}/pause")
    click.echo(f"{name} is paused: {reply['waiting']} wait")


@click.command()
@click.argument("name")
@api.platform_option
def resume(name: str, data: str | None) -> None:
    """Run what has waited for NAME since it was paused."""
    reply = api.find(data).call("POST", f"{api.function_path(name)}/resume")
    click.echo(f"{name} runs again: {reply['waiting']} have waited")


@click.command()
@click.argument("name", required=False)
@click.option("-n", "--count", type=click.IntRange(1, 100), default=3, help="So many next times of each.")
@api.platform_option
@output_option
def schedules(name: str | None, count: int, data: str | None, output: str) -> None:
    """List schedules (those of NAME) with their next times."""
    found = api.find(data).get("schedules", function=name, count=count)
    columns = ("function", "number", "schedule", "timezone", "paused", "next")
    show(output, found, columns, empty="no schedules")
