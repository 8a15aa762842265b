"""``mayfly up``."""

import asyncio
from pathlib import Path

import click

from mayfly.cli.api import DEFAULT_DATA
from mayfly.cli.failure import Failure


class _Terminal:
    def say(self, line: str) -> None:
        click.echo(line)

    def complain(self, line: str) -> None:
        click.echo(line, err=True)

    def log(self, service: str, chunk: bytes) -> None:
        for line in chunk.decode("utf-8", "replace").splitlines():
            click.echo(f"{service:>9} | {line}", err=True)


@click.command()
@click.option("--data", envvar="MAYFLY_DATA", default=DEFAULT_DATA, show_default=True, help="Data directory.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address of the HTTP port.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="HTTP; 0: any free one.")
@click.option("--nats-port", type=click.IntRange(0, 65535), default=4222, show_default=True, help="0: any free one.")
@click.option("--nodes", type=click.IntRange(1, 64), default=1, show_default=True, help="Workers to start.")
@click.option(
    "--max-nodes", type=click.IntRange(1, 64), metavar="N", help="Up to which more are started [default: as --nodes]."
)
@click.option(
    "--node-memory", type=click.IntRange(min=32), metavar="MB", help="Of each [default: 80 % of all, shared]."
)
@click.option("--secure", is_flag=True, help="Refuse NATS connections without credentials.")
@click.option(
    "--access",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="What of your own subjects, streams and buckets functions may touch [default: access.toml in the data].",
)
@click.option("--verbose", is_flag=True, help="Show the services' logs here too.")
def up(
    data: str,
    host: str,
    port: int,
    nats_port: int,
    nodes: int,
    max_nodes: int | None,
    node_memory: int | None,
    secure: bool,
    access: Path | None,
    verbose: bool,
) -> None:
    """Run a whole platform on this machine until Ctrl-C."""
    from mayfly.launcher import directory, plan, ports, supervisor
    from mayfly.launcher.up import up as live
    from mayfly_broker.access import InvalidAccess
    from mayfly_broker.bootstrap import BootstrapError
    from mayfly_chassis import logs

    logs.configure("up", "error")  # what becomes of its own connection is of no interest: it comes back
    if max_nodes is not None and max_nodes < nodes:
        raise click.BadParameter(f"{max_nodes} is fewer than --nodes {nodes}", param_hint="--max-nodes")
    options = plan.Options(
        data=Path(data),
        host=host,
        port=port,
        nats_port=nats_port,
        nodes=nodes,
        max_nodes=max_nodes or nodes,
        node_memory_mb=node_memory,
        secure=secure,
        verbose=verbose,
        access=access,
    )
    try:
        asyncio.run(live(options, _Terminal()))
    except (directory.InUse, ports.PortTaken, supervisor.StartFailed, BootstrapError, InvalidAccess) as error:
        raise Failure(str(error)) from None
