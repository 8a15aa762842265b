"""``mayfly dlq``: what failed for good."""

import json

import click

from mayfly.cli import api
from mayfly.cli.output import fields, output_option, show


@click.group()
def dlq() -> None:
    """Events and durable calls that failed for good: list, look, drive again, remove."""


@dlq.command()
@click.argument("name", required=False)
@click.option("-n", "--limit", type=click.IntRange(1, 1000), default=100, help="At most so many [default: 100].")
@click.option("--before", type=click.IntRange(min=1), metavar="SEQ", help="Only older ones: the next page.")
@api.platform_option
@output_option
def ls(name: str | None, limit: int, before: int | None, data: str | None, output: str) -> None:
    """List dead letters (those of NAME), newest first."""
    found = api.find(data).get("dlq", function=name, limit=limit, before=before)
    columns = ("sequence", "function", "invocation", "subject", "attempts", "reason", "failed_at")
    show(output, found, columns, empty="no dead letters")


@dlq.command("show")
@click.argument("sequence", type=click.IntRange(min=1))
@api.platform_option
@output_option
def show_one(sequence: int, data: str | None, output: str) -> None:
    """Show the dead letter SEQUENCE: why it failed, its headers, its payload."""
    found = api.find(data).get(f"dlq/{sequence}")
    if output == "json":
        return show(output, [found], (), empty="")
    payload = found.pop("payload", None)
    traceback = (found.get("error") or {}).pop("traceback", "")
    click.echo(fields(found))
    for text in (traceback, payload if isinstance(payload, str) or payload is None else json.dumps(payload, indent=2)):
        if text:
            click.echo()
            click.echo(text.rstrip())


@dlq.command()
@click.argument("name")
@click.argument("sequences", type=click.IntRange(min=1), nargs=-1)
@api.platform_option
def redrive(name: str, sequences: tuple[int, ...], data: str | None) -> None:
    """Run dead letters of NAME again (all, or SEQUENCES), as if for the first time. Only NAME gets them."""
    body = {"sequences": list(sequences)} if sequences else None
    reply = api.find(data).call("POST", f"{_path(name)}/redrive", body=body)
    left = f"; {reply['left']} are left: repeat the command" if reply["left"] else ""
    click.echo(f"{reply['count']} of {name} run again{left}")


@dlq.command()
@click.argument("name")
@click.argument("sequences", type=click.IntRange(min=1), nargs=-1)
@api.platform_option
def purge(name: str, sequences: tuple[int, ...], data: str | None) -> None:
    """Remove dead letters of NAME (all, or SEQUENCES) for good."""
    reply = api.find(data).call("DELETE", _path(name), query={"sequence": sequences or None})
    click.echo(f"removed {reply['count']} of {name}")


def _path(name: str) -> str:
    return f"dlq/{api.quoted(name)}"
