"""``mayfly worker``: this machine, or a part of it, as a node of a platform that runs elsewhere."""

import asyncio
import os
import re
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import click

from mayfly.cli.failure import Exit, Failure
from mayfly.cli.settings import pair
from mayfly_proto import names

_NATS_PORT = 4222


@click.command()
@click.option(
    "--join", required=True, metavar="URL", help="NATS of the platform: nats://host:4222, or several by comma."
)
@click.option(
    "--credential",
    required=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False, readable=True),
    metavar="FILE",
    help="Holds the password of the role worker (of `mayfly up`: DATA/secrets/worker).",
)
@click.option(
    "--ca",
    type=click.Path(path_type=Path, exists=True, dir_okay=False, readable=True),
    metavar="FILE",
    help="Holds the certificate authority that the servers' certificates are checked by; then TLS is demanded.",
)
@click.option("--node", metavar="NAME", help="[default: this machine's name]")
@click.option("--memory", type=click.IntRange(min=1), metavar="MB", help="For instances [default: 80 % of all].")
@click.option("--label", "labels", multiple=True, metavar="NAME=VALUE", help="For functions that ask for it.")
@click.option(
    "--directory", type=click.Path(path_type=Path), metavar="DIR", help="For code [default: .mayfly/nodes/NAME]."
)
@click.option("--replace", is_flag=True, help="Take the name from a node that has it and lives: that one ends.")
def worker(
    join: str,
    credential: Path,
    ca: Path | None,
    node: str | None,
    memory: int | None,
    labels: tuple[str, ...],
    directory: Path | None,
    replace: bool,
) -> None:
    """Run a worker here, in this process, until SIGTERM or Ctrl-C: then it is drained, and ends.

    Other settings of a worker are taken from the environment, as MAYFLY_WORKER_DRAIN_LIMIT_S=300.
    """
    name = _checked(node) if node is not None else node_name(socket.gethostname())
    settings = {
        "MAYFLY_NATS_URL": join,
        "MAYFLY_NATS_USER": "worker",
        "MAYFLY_NATS_PASSWORD_FILE": str(credential.absolute()),
        "MAYFLY_NATS_CA_FILE": str(ca.absolute()) if ca else None,
        "MAYFLY_WORKER_NODE": name,
        "MAYFLY_WORKER_MEMORY_MB": str(memory) if memory else None,
        "MAYFLY_WORKER_LABELS": ",".join(map(_label, labels)) or None,
        "MAYFLY_WORKER_DIRECTORY": str((directory or Path(".mayfly", "nodes", name)).absolute()),
        "MAYFLY_PLATFORM_PORTS": ",".join(ports(join)),
    }
    environment = {**os.environ, **{variable: value for variable, value in settings.items() if value is not None}}
    if not replace:
        _refuse_a_living_one(environment, name)
    # The password's file is named in the environment, never its content, and nothing of it in what `ps` shows.
    os.execve(sys.executable, [sys.executable, "-P", "-m", "mayfly_worker"], environment)  # noqa: S606 - no shell


def node_name(host: str) -> str:
    """A machine's name as a node's: without its domain, in lower case, '-' for what else is in it."""
    plain = re.sub(r"[^a-z0-9]+", "-", host.partition(".")[0].lower()).strip("-")[:63].strip("-")
    return plain or "node"


def ports(urls: str) -> list[str]:
    """Of the servers: functions are kept out of them."""
    try:
        return sorted({str(urlsplit(url.strip()).port or _NATS_PORT) for url in urls.split(",")})
    except ValueError as error:
        raise click.UsageError(f"--join {urls!r}: {error}") from None


def _checked(node: str) -> str:
    try:
        return names.check_node(node)
    except names.InvalidName as error:
        raise Failure(str(error), Exit.USAGE) from None


def _label(text: str) -> str:
    for part in (label := pair(text, "--label")):
        if not names.LABEL.fullmatch(part):
            raise click.UsageError(f"--label {text!r}: {part!r} must be {names.LABEL_RULE}")
    return "=".join(label)


def _refuse_a_living_one(environment: Mapping[str, str], node: str) -> None:
    from mayfly.cli.joining import lives
    from mayfly_chassis.config import ConfigError, ServiceConfig, load
    from mayfly_chassis.errors import BusError

    try:
        taken = asyncio.run(lives(load(ServiceConfig, "worker", environment), node))
    except ConfigError as error:
        raise Failure(str(error), Exit.USAGE) from None
    except BusError as error:
        raise Failure(f"cannot join {environment['MAYFLY_NATS_URL']}: {error}") from None
    if taken:
        raise Failure(
            f"there is a node {node} already, and it lives: choose another --node, or take its name by --replace"
        )
