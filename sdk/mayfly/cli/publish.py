"""``mayfly publish``."""

import json

import click

from mayfly.cli import api, payload
from mayfly_proto import headers as header_names
from mayfly_proto import subjects


@click.command()
@click.argument("subject")
@click.argument("event", metavar="[DATA]", required=False)
@click.option("-H", "--header", "given", multiple=True, metavar="NAME:VALUE", help="A header; may be repeated.")
@click.option("--id", "message_id", metavar="MSGID", help="Published again with the same one, the event is kept once.")
@api.platform_option
def publish(subject: str, event: str | None, given: tuple[str, ...], message_id: str | None, data: str | None) -> None:
    """Publish an event for every function that it triggers, and print its id.

    SUBJECT is as triggers have it: orders.eu.created (a leading `event.` may be there). DATA is text, @FILE, or - for
    standard input.
    """
    fields = dict(_header(each) for each in given)
    if message_id is not None:
        fields[header_names.MESSAGE_ID] = message_id
    path = f"/event/{api.quoted(subject.removeprefix(subjects.event('')))}"
    with api.find(data).send("POST", path, fields, payload.read(event)) as reply:
        told = json.loads(reply.read())
    for each in told.get("events", [told]):
        click.echo(each["id"])


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip() or not (text.isascii() and text.isprintable()):
        raise click.UsageError(f"-H {text!r}: must be NAME:VALUE, in ASCII")
    return name.strip(), value.strip()
