"""The ``mayfly`` command. A command's module is imported when that command runs, so that each starts at once."""

from importlib import import_module

import click

_COMMANDS = {
    "up": "launch",
    "init": "scaffold",
    "deploy": "deploy",
    "config": "deploy",
    "ls": "functions",
    "describe": "functions",
    "versions": "functions",
    "rollback": "functions",
    "rm": "functions",
    "invoke": "invoke",
    "result": "results",
    "cancel": "results",
    "publish": "publish",
    "pause": "triggers",
    "resume": "triggers",
    "schedules": "triggers",
    "dlq": "dead_letters",
    "logs": "logs",
    "instances": "nodes",
    "nodes": "nodes",
    "drain": "nodes",
    "undrain": "nodes",
    "top": "top",
    "scaler": "scaler",
    "worker": "worker",
    "version": "scaffold",
    "completion": "scaffold",
}


class _Lazy(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"mayfly.cli.{_COMMANDS[name]}"), name)
        return command


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Functions as a service on NATS.

    Start a platform with `mayfly up`, then `mayfly deploy hello.py` and `mayfly invoke hello`.

    Exit codes: 0 ok, 1 platform error, 2 usage, 3 the function returned an error, 4 not found, 5 timed out,
    6 throttled.
    """
