"""Commands on what runs where: ``instances`` and ``nodes``."""

import click

from mayfly.cli import api
from mayfly.cli.output import output_option, show


@click.command()
@api.platform_option
@output_option
def instances(data: str | None, output: str) -> None:
    """List running instances."""
    columns = ("instance", "function", "version", "node", "state", "pid", "calls", "age_s", "idle_s", "memory_mb")
    show(output, api.find(data).get("instances"), columns, empty="no instances: the next call is a cold start")


@click.command()
@api.platform_option
@output_option
def nodes(data: str | None, output: str) -> None:
    """List nodes."""
    columns = ("node", "cores", "memory_mb", "draining", "isolation", "started", "version")
    show(output, api.find(data).get("nodes"), columns, empty="no nodes: is a worker running?")
