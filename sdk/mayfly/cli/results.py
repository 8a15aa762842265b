"""Commands on durable calls: ``result`` and ``cancel``."""

import base64
import json
import time
from typing import Any

import click

from mayfly.cli import api, payload
from mayfly.cli.failure import Exit, Failure
from mayfly.cli.output import output_option, show

_FOR_EVER = float("inf")
_SLICE_S = 30.0  # one request waits so long


class _Seconds(click.ParamType[float]):
    name = "seconds"

    def convert(self, value: str | float, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        try:
            seconds = float(value)
        except ValueError:
            seconds = -1
        if not seconds >= 0:
            self.fail(f"{value!r}: must be a number of seconds; put --wait after the id", param, ctx)
        return seconds


@click.command()
@click.argument("identity", metavar="ID")
@click.option(
    "--wait",
    "wait_s",
    type=_Seconds(),
    is_flag=False,
    flag_value=_FOR_EVER,
    metavar="[SECONDS]",
    help="Until there is a result; without SECONDS as long as it takes.",
)
@api.platform_option
@output_option
def result(identity: str, wait_s: float | None, data: str | None, output: str) -> None:
    """Print the result of the durable call ID (as `mayfly invoke --async` has printed it).

    With -o json all that is known of it. Exit codes: 3 the function failed, 4 no such call, 5 there is no result yet.
    """
    known = _known(api.find(data), identity, wait_s or 0.0)
    if output == "json":
        show(output, [known], (), empty="")
    state, error = known["state"], known.get("error") or {}
    if state == "succeeded":
        if output != "json":
            payload.write(_body(known))
        return
    if state == "failed":
        message = f"{error.get('message', identity)} ({error.get('code', '')} {error.get('type', 'failed')})"
        raise Failure(message, Exit.FUNCTION, error.get("traceback", ""))
    if state == "cancelled":
        raise Failure(f"{identity} was cancelled")
    raise Failure(f"{identity} has no result yet: it is {state}", Exit.TIMED_OUT)


@click.command()
@click.argument("identity", metavar="ID")
@api.platform_option
def cancel(identity: str, data: str | None) -> None:
    """Take back the durable call ID, if it has not started."""
    api.find(data).call("DELETE", _path(identity))
    click.echo(f"cancelled {identity}")


def _known(platform: api.Api, identity: str, wait_s: float) -> dict[str, Any]:
    """In slices, so that a gateway may be restarted meanwhile."""
    deadline = time.monotonic() + wait_s
    while True:
        left_s = max(deadline - time.monotonic(), 0.0)
        slice_s = min(left_s, _SLICE_S)
        query = {"wait": f"{slice_s:.3f}"} if slice_s else {}
        known: dict[str, Any] = platform.call(
            "GET", _path(identity), query=query, timeout_s=slice_s + api.MANAGEMENT_TIMEOUT_S
        )
        if known["state"] in ("succeeded", "failed", "cancelled") or slice_s == left_s:
            return known


def _body(known: dict[str, Any]) -> bytes:
    """The result as the function returned it."""
    value: Any = known.get("result")
    if known.get("encoding") == "base64":
        return base64.b64decode(value)
    kind = known.get("content_type", "").partition(";")[0].strip()
    if not kind or kind.endswith(("/json", "+json")):
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() if "result" in known else b""
    return str(value or "").encode()


def _path(identity: str) -> str:
    return f"invocations/{api.quoted(identity)}"
