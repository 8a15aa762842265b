"""Commands on what runs where: ``instances``, ``nodes``, ``drain``, ``undrain``."""

import time
from typing import Any

import click

from mayfly.cli import api
from mayfly.cli.failure import Failure
from mayfly.cli.output import output_option, show

_LOOK_S = 0.5


@click.command()
@api.platform_option
@output_option
def instances(data: str | None, output: str) -> None:
    """List running instances."""
    found = api.find(data).get("instances")
    columns = ("instance", "function", "version", "node", "state", "pid", "calls", "age_s", "idle_s", "memory_mb")
    show(output, [_instance(row) for row in found], (*columns, "cold_ms"), empty=_NO_INSTANCES)


@click.command()
@api.platform_option
@output_option
def nodes(data: str | None, output: str) -> None:
    """List nodes: what they have, what they carry, and which are to be empty."""
    found = api.find(data).get("nodes")
    columns = ["node", "state", "cores", "cpu_percent", "memory_mb", "memory_used_mb", "ready", "busy", "starting"]
    columns += ["labels"] if any(row["labels"] for row in found) else []
    columns += ["drain_by", "drain_why"] if any(row["drain_by"] for row in found) else []
    show(output, found, (*columns, "heard_s", "isolation", "version"), empty="no nodes: is a worker running?")


@click.command()
@click.argument("node")
@click.option("--why", default="", metavar="TEXT", help="For the record: others see it in `mayfly nodes`.")
@click.option("--wait", is_flag=True, help="Return when nothing runs there any more.")
@api.platform_option
def drain(node: str, why: str, wait: bool, data: str | None) -> None:
    """Empty NODE: nothing new starts there, what is idle goes elsewhere or ends, calls that run finish.

    It stays so, also when it or the platform is started again, until `mayfly undrain NODE`.
    """
    platform = api.find(data)
    reply = platform.call("POST", f"nodes/{api.quoted(node)}/drain", body={"why": why})
    click.echo(f"{node} is empty" if reply["state"] == "empty" else f"{node} is being emptied")
    if wait and reply["state"] != "empty":
        click.echo(_emptied(platform, node))


@click.command()
@click.argument("node")
@api.platform_option
def undrain(node: str, data: str | None) -> None:
    """Let instances start on NODE again."""
    api.find(data).call("POST", f"nodes/{api.quoted(node)}/undrain")
    click.echo(f"{node} takes instances again")


def _emptied(platform: api.Api, node: str) -> str:
    """How it ended."""
    wanted, shown = False, ""
    while True:
        row = next((row for row in platform.get("nodes") if row["node"] == node), None)
        if row is None:
            return f"{node} is gone"
        if row["state"] == "empty":
            return f"{node} is empty"
        if wanted and not row["drain_by"]:
            raise Failure(f"{node} is no longer being emptied: somebody has undrained it")
        wanted = bool(row["drain_by"])
        if (carries := f"{node} has {row['ready'] or 0} instances, {row['busy'] or 0} busy") != shown:
            click.echo(carries, err=True)
            shown = carries
        time.sleep(_LOOK_S)


def _instance(row: dict[str, Any]) -> dict[str, Any]:
    """``cold_ms``: how long it took to start."""
    return {**row, "cold_ms": row.get("cold_start_ms", {}).get("total")}


_NO_INSTANCES = "no instances: the next call is a cold start"
