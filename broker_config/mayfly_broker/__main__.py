"""``python -m mayfly_broker config|cluster|roles`` prints the plain configuration; ``bootstrap`` makes streams and
buckets, each on so many servers of a cluster as ``--replicas`` says.

``--access FILE`` is for ``roles``: what of the user's own functions may touch.

``bootstrap`` reads MAYFLY_NATS_URL, MAYFLY_NATS_USER (operator), MAYFLY_NATS_PASSWORD_FILE and MAYFLY_NATS_CA_FILE.
"""

import argparse
import asyncio
import sys
from pathlib import Path

from mayfly_broker import access, config
from mayfly_broker.bootstrap import BootstrapError, bootstrap
from mayfly_broker.roles import OPERATOR, ROLES
from mayfly_chassis.bus import Bus
from mayfly_chassis.config import ConfigError, ServiceConfig, load
from mayfly_chassis.errors import BusError, Unauthorized

_PRINTED = {"config": config.plain, "cluster": config.plain_cluster}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m mayfly_broker", description=__doc__)
    parser.add_argument("command", nargs="?", choices=(*_PRINTED, "roles", "bootstrap"), default="config")
    parser.add_argument("--access", type=Path, metavar="FILE", help="with roles: an access.toml")
    parser.add_argument(
        "--replicas", type=int, choices=(1, 3, 5), help="with bootstrap; default: as they are, 1 for new ones"
    )
    arguments = parser.parse_args()
    if arguments.access is not None and not (arguments.command == "roles" and arguments.access.is_file()):
        parser.error("--access: goes with roles, and names a file that is there")
    if arguments.command != "bootstrap":
        _print(arguments.command, arguments.access)
        return
    try:
        asyncio.run(_bootstrap(load(ServiceConfig, "broker"), arguments.replicas))
    except ConfigError as error:
        sys.stderr.write(f"mayfly_broker: {error}\n")
        sys.exit(2)
    except (BusError, BootstrapError) as error:
        sys.exit(f"mayfly_broker: {error}")


def _print(command: str, access_file: Path | None) -> None:
    if command in _PRINTED:
        sys.stdout.write(_PRINTED[command]())
        return
    try:
        granted = access.NOTHING if access_file is None else access.read(access_file)
    except access.InvalidAccess as error:
        sys.exit(f"mayfly_broker: {error}")
    sys.stdout.write(config.plain_roles(granted))


async def _bootstrap(settings: ServiceConfig, replicas: int | None) -> None:
    await _refuse_empty_passwords(settings)
    bus = await Bus.connect(
        settings.nats_url,
        name="bootstrap",
        role=OPERATOR,
        user=settings.nats_user or OPERATOR,
        password=settings.nats_password(),
        ca_file=settings.nats_ca_file,
    )
    try:
        await bootstrap(bus, replicas)
    finally:
        await bus.close()


async def _refuse_empty_passwords(settings: ServiceConfig) -> None:
    """nats-server takes a variable that is set to nothing for a password of no characters, and lets anybody in."""
    for role in ROLES:
        try:
            bus = await Bus.connect(
                settings.nats_url, name="bootstrap", role=role, user=role, password="", ca_file=settings.nats_ca_file
            )
        except Unauthorized:
            continue
        await bus.close()
        raise BootstrapError(f"{role} has an empty password: set {config.password_variable(role)} for nats-server")


if __name__ == "__main__":
    main()
