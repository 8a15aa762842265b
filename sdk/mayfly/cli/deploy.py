"""Commands that make new versions: ``deploy`` and ``config``."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from mayfly.archive import NotPackable, files
from mayfly.cli import api
from mayfly.cli.failure import Exit, Failure
from mayfly.cli.progress import bar
from mayfly.cli.settings import given, settings_options
from mayfly.project import Source, from_path

_CHUNK = 256 * 1024
_UPLOAD_TIMEOUT_S = 300.0


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
    settings, platform = given(options), api.find(data)
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
@click.option("--unset", multiple=True, metavar="SETTING", help="Back to the default: reserved, scale_on ...")
@api.platform_option
def config(name: str, unset: tuple[str, ...], data: str | None, **options: Any) -> None:
    """Change settings of NAME without its code: a new version on the same package.

    `--env A=1` changes one variable and keeps the others; `--env A=` removes it. Other lists are replaced.
    """
    settings: dict[str, Any] = {**dict.fromkeys(unset), **given(options)}
    platform = api.find(data)
    if not settings:
        raise click.UsageError("give at least one setting to change, for example --memory 256")
    if settings.get("env"):
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


def _report(reply: dict[str, Any]) -> None:
    state = "is unchanged at version" if reply.get("unchanged") else "is at version"
    click.echo(f"{reply['name']} {state} {reply['version']} ({reply['handler']}, {reply['size']} bytes)")
