"""A function's settings as options, and in the manifest's form: ``--keep-alive auto --scale-on jobs.waiting=5``."""

import re
from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

_PROVISIONED = re.compile(r"(?P<instances>\d+) from (?P<start>.+?) to (?P<end>.+?)(?: in (?P<timezone>\S+))?")


class _KeepAlive(click.ParamType[float | str]):
    name = "seconds"

    def convert(self, value: str | float, param: click.Parameter | None, ctx: click.Context | None) -> float | str:
        try:
            return value if value == "auto" else float(value)
        except ValueError:
            self.fail(f'{value!r}: must be "auto" or a number of seconds', param, ctx)


_SETTINGS = (
    click.option("--handler", metavar="MODULE:FUNCTION", help="What to call."),
    click.option("--memory", type=int, metavar="MB"),
    click.option("--timeout", type=float, metavar="SECONDS", help="For one call."),
    click.option("--concurrency", type=int, metavar="N", help="Calls at once per instance (async handlers)."),
    click.option("--min-instances", type=int, metavar="N", help="Always ready."),
    click.option("--max-instances", type=int, metavar="N"),
    click.option("--keep-alive", type=_KeepAlive(), metavar="SECONDS|auto", help="How long an idle instance stays."),
    click.option("--pre-warm/--no-pre-warm", default=None, help="With auto: start one before the next call is likely."),
    click.option("--reserved", type=int, metavar="N", help="Instances that it can have whatever others want."),
    click.option("--weight", type=float, metavar="X", help="Of its share when there is not enough for all."),
    click.option("--provisioned", multiple=True, metavar="TEXT", help='"N from CRON to CRON [in ZONE]": ready then.'),
    click.option("--scale-on", multiple=True, metavar="METRIC=TARGET", help="Per instance: cpu=70, jobs.waiting=5."),
    click.option("--node-label", multiple=True, metavar="NAME=VALUE", help="That its nodes must have."),
    click.option("--rate-limit", type=float, metavar="CALLS/S", help="Of all callers; beyond it they get 429."),
    click.option("--caller-rate-limit", type=float, metavar="CALLS/S", help="Of each caller."),
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
    """Adds an option for each setting; those given arrive as keyword arguments, see `given`."""
    for option in reversed(_SETTINGS):
        command = option(command)
    return command


def given(options: dict[str, Any]) -> dict[str, Any]:
    """The settings that were given, in the manifest's form."""
    settings = {name: value for name, value in options.items() if value is not None and value != ()}
    if "env" in settings:
        settings["env"] = dict(pair(text, "--env") for text in settings["env"])
    if labels := settings.pop("node_label", ()):
        settings["node_labels"] = dict(pair(text, "--node-label") for text in labels)
    if "scale_on" in settings:
        settings["scale_on"] = [_scale_on(text) for text in settings["scale_on"]]
    if "provisioned" in settings:
        settings["provisioned"] = [_provisioned(text) for text in settings["provisioned"]]
    triggers = [_http(text) for text in settings.pop("http", ())]
    triggers += [{kind: text} for kind in ("event", "schedule") for text in settings.pop(kind, ())]
    return settings | ({"triggers": triggers} if triggers else {})


def pair(text: str, option: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise click.UsageError(f"{option} {text!r}: must be NAME=VALUE")
    return name, value


def _scale_on(text: str) -> dict[str, Any]:
    metric, target = pair(text, "--scale-on")
    try:
        return {"metric": metric, "target": float(target)}
    except ValueError:
        raise click.UsageError(f"--scale-on {text!r}: the target must be a number") from None


def _provisioned(text: str) -> dict[str, Any]:
    found = _PROVISIONED.fullmatch(" ".join(text.split()))
    if found is None:
        example = '"5 from 0 8 * * MON-FRI to 0 18 * * MON-FRI in Europe/Amsterdam"'
        raise click.UsageError(f"--provisioned {text!r}: must be like {example}")
    fields = {name: value for name, value in found.groupdict().items() if value is not None}
    return {**fields, "instances": int(found["instances"])}


def _http(text: str) -> dict[str, Any]:
    methods, _, path = text.rpartition(" ")
    return {"http": path, "methods": [method.upper() for method in methods.replace(",", " ").split()]}
