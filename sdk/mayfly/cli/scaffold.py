"""Commands that need no platform: ``init``, ``version``, ``completion``."""

from importlib.metadata import version as installed_version
from pathlib import Path

import click

from mayfly.cli.failure import Exit, Failure
from mayfly_proto import names

_HANDLER = '''\
def handler(event, context):
    """``event`` is the decoded payload; what is returned becomes the reply."""
    name = (event or {}).get("name", "world")
    print("greeting", name)
    return {"greeting": f"Hello, {name}!"}
'''

_MANIFEST = """\
# One table for each function of this project; `mayfly deploy .` deploys them all.
[functions.%s]
handler = "main:handler"       # module:function
memory = 128                   # MB
timeout = 3                    # s
concurrency = 1                # calls at once per instance; more than 1 needs an async handler
max_instances = 100            # at once, on all nodes
min_instances = 0              # always ready
keep_alive = "auto"            # how long an idle instance stays: learnt from its calls, or a number of seconds
env = {}
triggers = [{ http = "/%s" }]
"""


@click.command()
@click.argument("name")
def init(name: str) -> None:
    """Make a folder NAME with a function to start from."""
    try:
        names.check_function(name)
    except names.InvalidName as error:
        raise Failure(str(error), Exit.USAGE) from None
    folder = Path(name)
    try:
        folder.mkdir()
    except FileExistsError:
        raise Failure(f"{folder} is there already: choose another name") from None
    except OSError as error:
        raise Failure(f"cannot make {folder}: {error.strerror}") from None
    (folder / "main.py").write_text(_HANDLER)
    (folder / "mayfly.toml").write_text(_MANIFEST % (_key(name), name.replace(".", "/")))
    click.echo(f"made {folder}/main.py and {folder}/mayfly.toml")
    click.echo(f'next: mayfly deploy {folder} && mayfly invoke {name} -d \'{{"name": "Ada"}}\'')


def _key(name: str) -> str:
    """A dotted name is one TOML key only in quotes."""
    return f'"{name}"' if "." in name else name


@click.command()
def version() -> None:
    """Print the version of this command."""
    click.echo(f"mayfly {installed_version('mayfly')}")


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of SHELL, for example: source <(mayfly completion bash)"""
    from click.shell_completion import get_completion_class

    from mayfly.cli import main

    complete = get_completion_class(shell)
    assert complete is not None
    click.echo(complete(main, {}, "mayfly", "_MAYFLY_COMPLETE").source())
