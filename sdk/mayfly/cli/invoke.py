"""``mayfly invoke``."""

import sys
from http.client import HTTPMessage
from pathlib import Path
from urllib.parse import quote

import click

from mayfly.cli import api
from mayfly.cli.failure import Exit, Failure, failure_of
from mayfly_proto import headers as header_names

_GRACE_S = 5.0  # for the answer to come back
_WAIT_S = 3600.0  # without --timeout the platform decides: the function's timeout and ten seconds of waiting


@click.command()
@click.argument("name")
@click.option("-d", "--payload", metavar="DATA", help="The event: text, @FILE, or - for standard input.")
@click.option("--timeout", type=click.FloatRange(min=0.001), metavar="SECONDS", help="For waiting and running.")
@click.option("--content-type", help="How the function should decode the event.")
@click.option("-i", "--include", is_flag=True, help="Print the reply's headers too, to standard error.")
@api.platform_option
def invoke(
    name: str, payload: str | None, timeout: float | None, content_type: str | None, include: bool, data: str | None
) -> None:
    """Call NAME, or one version of it (NAME@3), and print the result."""
    headers = {}
    if content_type is not None:
        headers[header_names.CONTENT_TYPE] = content_type
    if timeout is not None:
        headers[header_names.TIMEOUT_MS] = str(round(timeout * 1000))
    wait_s = _WAIT_S if timeout is None else timeout + _GRACE_S
    platform = api.find(data)
    path = f"/function/{quote(name, safe='@')}"
    with platform.send("POST", path, headers, _event(payload), timeout_s=wait_s, errors=False) as reply:
        body = reply.read()
    if include:
        _show_headers(reply.status, reply.headers)
    if reply.status >= 400:
        raise _failed(reply.status, body)
    _write(body)


def _event(given: str | None) -> bytes:
    if given is None:
        return b""
    if given == "-":
        return sys.stdin.buffer.read()
    if not given.startswith("@"):
        return given.encode()
    try:
        return Path(given[1:]).read_bytes()
    except OSError as error:
        raise Failure(f"cannot read {given[1:]}: {error.strerror}", Exit.USAGE) from None


def _failed(status: int, body: bytes) -> Failure:
    """The platform's error, or the function's own answer with a status that says error."""
    error = failure_of(status, body)
    if error is not None:
        return error
    _write(body)
    return Failure(f"the function answered with status {status}", Exit.FUNCTION)


def _write(body: bytes) -> None:
    sys.stdout.buffer.write(body)
    if sys.stdout.isatty() and body and not body.endswith(b"\n"):
        sys.stdout.buffer.write(b"\n")
    sys.stdout.buffer.flush()


def _show_headers(status: int, headers: HTTPMessage) -> None:
    click.echo(f"{status}", err=True)
    for field, value in headers.items():
        click.echo(f"{field}: {value}", err=True)
