"""``mayfly invoke``: call a function and wait for its result, or have it called for certain."""

import json
from http.client import HTTPMessage, HTTPResponse
from urllib.parse import quote

import click

from mayfly.cli import api, payload
from mayfly.cli.failure import Exit, Failure, failure_of
from mayfly.cli.when import Duration, Moment
from mayfly_proto import headers as header_names

_GRACE_S = 5.0  # for the answer to come back
_WAIT_S = 3600.0  # without --timeout the platform decides: the function's timeout and ten seconds of waiting

_IDEMPOTENCY_KEY = "Idempotency-Key"


@click.command()
@click.argument("name")
@click.option("-d", "--payload", "event", metavar="DATA", help="The event: text, @FILE, or - for standard input.")
@click.option("--timeout", type=click.FloatRange(min=0.001), metavar="SECONDS", help="For waiting and running.")
@click.option("--content-type", help="How the function should decode the event.")
@click.option("-i", "--include", is_flag=True, help="Print the reply's headers too, to standard error.")
@click.option("--async", "durable", is_flag=True, help="Do not wait: the call is kept until it is done. Prints its id.")
@click.option("--in", "delay_s", type=Duration(), metavar="DURATION", help="As --async, but 30s, 10m, 2h from now.")
@click.option("--at", type=Moment(), metavar="TIME", help="As --async, but then: 2026-01-31T12:00:00Z.")
@click.option("--idempotency-key", metavar="KEY", help="A call repeated with the same one gets the first one's result.")
@api.platform_option
def invoke(
    name: str,
    event: str | None,
    timeout: float | None,
    content_type: str | None,
    include: bool,
    durable: bool,
    delay_s: float | None,
    at: str | None,
    idempotency_key: str | None,
    data: str | None,
) -> None:
    """Call NAME, or one version of it (NAME@3), and print the result.

    With --async, --in or --at print an id instead, of which `mayfly result` tells what became.
    """
    durable = durable or delay_s is not None or at is not None
    if delay_s is not None and at is not None:
        raise click.UsageError("--in and --at: give one of them")
    if durable and timeout is not None:
        raise click.UsageError("--timeout: a call that nobody waits for has none but its function's")
    given = {
        header_names.CONTENT_TYPE: content_type,
        header_names.TIMEOUT_MS: None if timeout is None else str(round(timeout * 1000)),
        header_names.DELAY: None if delay_s is None else f"{delay_s:.9f}",
        header_names.AT: at,
        _IDEMPOTENCY_KEY: idempotency_key,
    }
    headers = {field: value for field, value in given.items() if value is not None}
    wait_s = _WAIT_S if timeout is None else timeout + _GRACE_S
    path = f"/{'async-function' if durable else 'function'}/{quote(name, safe='@')}"
    with api.find(data).send("POST", path, headers, payload.read(event), timeout_s=wait_s, errors=durable) as reply:
        body = reply.read()
    if include:
        _show_headers(reply.status, reply.headers)
    if reply.status >= 400:
        raise _failed(reply, body)
    if durable:
        click.echo(json.loads(body)["id"])
    else:
        payload.write(body)


def _failed(reply: HTTPResponse, body: bytes) -> Failure:
    """The platform's error, or the function's own answer with a status that says error."""
    error = failure_of(reply.status, body, reply.headers.get("Retry-After"))
    if error is not None:
        return error
    payload.write(body)
    return Failure(f"the function answered with status {reply.status}", Exit.FUNCTION)


def _show_headers(status: int, headers: HTTPMessage) -> None:
    click.echo(f"{status}", err=True)
    for field, value in headers.items():
        click.echo(f"{field}: {value}", err=True)
