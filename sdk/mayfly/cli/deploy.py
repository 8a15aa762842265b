"""Commands that make new versions: ``deploy`` and ``config``."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import click

from mayfly.archive import NotPackable, files
from mayfly.cli import api
from mayfly.cli.failure import Exit, Failure
from mayfly.cli.progress import bar
from mayfly.project import Source, from_path

F = TypeVar("F", bound=Callable[..., Any])

_CHUNK = 256 * 1024
_UPLOAD_TIMEOUT_S = 300.0

_SETTINGS = (
    click.option("--handler", metavar="MODULE:FUNCTION", help="What to call."),
    click.option("--memory", type=int, metavar="MB"),
    click.option("--timeout", type=float, metavar="SECONDS", help="For one call."),
    click.option("--concurrency", type=int, metavar="N", help="Calls at once per instance (async handlers)."),
    click.option("--min-instances", type=int, metavar="N"),
    click.option("--max-instances", type=int, metavar="N"),
    click.option("--keep-alive", type=float, metavar="SECONDS", help="How long an idle instance stays."),
    click.option("--max-queue", type=int, metavar="N", help="Calls that may wait."),
    click.option("--activation", type=click.Choice(["balanced", "eager"]), help="How soon to start more instances."),
    click.option("--idempotent/--not-idempotent", default=None, help="Whether a call may run again."),
    click.option("--isolation", metavar="LEVEL"),
    click.option("--payload", type=click.Choice(["auto", "json", "text", "bytes"]), help="How to decode events."),
    click.option("--description", metavar="TEXT"),
    click.option("--env", multiple=True, metavar="NAME=VALUE", help="May be given several times."),
    click.option("--http", multiple=True, metavar="[METHOD,...] PATH", help='A path to serve: "GET /orders/{id}".'),
    click.option("--event", multiple=True, metavar="SUBJECT", help="Events to run for: orders.*.created."),
    click.option("--schedule", multiple=True, metavar="CRON", help='Times to run at: "*/5 * * * *", "@every 30s".'),
    click.option("--ordered", metavar="TOKEN", help="One by one for each key: subject.3, or a header's name."),
    click.option("--on-success", metavar="SUBJECT", help="Where results of events and durable calls are published."),
    click.option("--on-failure", metavar="SUBJECT", help="Where what failed for good is published."),
    click.option("--idempotency-ttl", type=int, metavar="SECONDS", help="How long an idempotency key is remembered."),
)


def settings_options(command: F) -> F:
    """Adds an option for each setting; those given arrive as keyword arguments, see `_given`."""
    for option in reversed(_SETTINGS):
        command = option(command)
    return command


@click.command()
@click.argument("path", type=click.Path(path_type=Path), required=False)
@click.option("--name", help="The function's name [default: the file's, or those in mayfly.toml].")
@click.option("--object", "object_", metavar="BUCKET/NAME", help="Deploy from an object store of NATS instead.")
@settings_options
@api.platform_option
def deploy(path: Path | None, name: str | None, object_: str | None, data: str | None, **options: Any) -> None:
    """Deploy PATH: a .py file, a .zip, or a folder (each function in its mayfly.toml, if it has one)."""
    if (path is None) == (object_ is None):
        raise click.UsageError("give either a PATH or --object BUCKET/NAME")
    settings, platform = _given(options), api.find(data)
    if path is not None:
        for source in _sources(path, name, settings):
            _report(_upload(platform, source))
        return
    if name is None:
        raise click.UsageError("--object needs a --name")
    body = {"object": object_, "settings": settings or None}
    _report(platform.call("POST", api.function_path(name), body=body))


@click.command()
@click.argument("name")
@settings_options
@api.platform_option
def config(name: str, data: str | None, **options: Any) -> None:
    """Change settings of NAME without its code: a new version on the same package.

    `--env A=1` changes one variable and keeps the others; `--env A=` removes it.
    """
    settings, platform = _given(options), api.find(data)
    if not settings:
        raise click.UsageError("give at least one setting to change, for example --memory 256")
    if "env" in settings:
        current = platform.get(api.function_path(name))["env"]
        settings["env"] = {key: value for key, value in {**current, **settings["env"]}.items() if value}
    _report(platform.call("PATCH", api.function_path(name), body=settings))


def _sources(path: Path, name: str | None, settings: dict[str, Any]) -> list[Source]:
    try:
        total = sum(file.stat().st_size for file in files(path)) if path.is_dir() else 0
        with bar("packing", total) as progress:
            return from_path(path, name, settings, progress)
    except NotPackable as error:
        raise Failure(str(error), Exit.USAGE) from None
    except OSError as error:
        raise Failure(f"cannot read {error.filename or path}: {error.strerror}", Exit.USAGE) from None


def _upload(platform: api.Api, source: Source) -> Any:
    query = {"filename": source.filename}
    for setting, value in (source.settings or {}).items():
        query[setting] = value if isinstance(value, str) else json.dumps(value)
    size = len(source.content)
    with bar(f"uploading {source.name}", size) as progress:

        def chunks() -> Iterator[bytes]:
            for start in range(0, size, _CHUNK):
                yield source.content[start : start + _CHUNK]
                progress(min(_CHUNK, size - start))

        return platform.call(
            "POST",
            api.function_path(source.name),
            query=query,
            raw=chunks(),
            size=size,
            timeout_s=_UPLOAD_TIMEOUT_S,
        )


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """The settings that were given, in the manifest's form."""
    settings = {name: value for name, value in options.items() if value is not None and value != ()}
    if "env" in settings:
        settings["env"] = dict(_variable(text) for text in settings["env"])
    triggers = [_http(text) for text in settings.pop("http", ())]
    triggers += [{kind: text} for kind in ("event", "schedule") for text in settings.pop(kind, ())]
    return settings | ({"triggers": triggers} if triggers else {})


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise click.UsageError(f"--env {text!r}: must be NAME=VALUE")
    return name, value


def _http(text: str) -> dict[str, Any]:
    methods, _, path = text.rpartition(" ")
    return {"http": path, "methods": [method.upper() for method in methods.replace(",", " ").split()]}


def _report(reply: dict[str, Any]) -> None:
    state = "is unchanged at version" if reply.get("unchanged") else "is at version"
    click.echo(f"{reply['name']} {state} {reply['version']} ({reply['handler']}, {reply['size']} bytes)")
