"""Commands on deployed functions: ``ls``, ``describe``, ``versions``, ``rollback``, ``rm``."""

import click

from mayfly.cli import api
from mayfly.cli.output import fields, output_option, show


@click.command()
@api.platform_option
@output_option
def ls(data: str | None, output: str) -> None:
    """List functions."""
    functions = api.find(data).get("functions")
    columns = ("name", "version", "handler", "memory", "timeout", "triggers", "created")
    show(output, functions, columns, empty="no functions yet: mayfly deploy PATH")


@click.command()
@click.argument("name")
@click.option("--version", type=click.IntRange(min=1), help="Another version than the current one.")
@click.option("--code", is_flag=True, help="Print the code only: the file, or the names of a package's files.")
@api.platform_option
@output_option
def describe(name: str, version: int | None, code: bool, data: str | None, output: str) -> None:
    """Show everything about NAME: settings, versions, code."""
    found = api.find(data).get(api.function_path(name), version=version)
    if output == "json":
        return show(output, [found], (), empty="")
    source, entries = found.pop("source", None), found.pop("entries", [])
    text = source if source is not None else "\n".join(f"{entry['size']:>10}  {entry['path']}" for entry in entries)
    if not code:
        click.echo(fields(found))
        click.echo()
    click.echo(text.rstrip())


@click.command()
@click.argument("name")
@api.platform_option
@output_option
def versions(name: str, data: str | None, output: str) -> None:
    """List the versions of NAME, newest first."""
    found = api.find(data).get(f"{api.function_path(name)}/versions")
    columns = ("version", "current", "callable", "handler", "memory", "timeout", "size", "created")
    show(output, found, columns, empty=f"{name} has no versions")


@click.command()
@click.argument("name")
@click.argument("version", type=click.IntRange(min=1), required=False)
@api.platform_option
def rollback(name: str, version: int | None, data: str | None) -> None:
    """Make an older VERSION of NAME current again (by default the one before)."""
    reply = api.find(data).call("POST", f"{api.function_path(name)}/rollback", body={"version": version})
    click.echo(f"{name} is at version {reply['version']}")


@click.command()
@click.argument("name")
@api.platform_option
def rm(name: str, data: str | None) -> None:
    """Remove NAME with all its versions."""
    api.find(data).call("DELETE", api.function_path(name))
    click.echo(f"removed {name}")
