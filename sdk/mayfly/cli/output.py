"""What reading commands print: an aligned table for people, a JSON list of flat objects for programs."""

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def output_option(command: F) -> F:
    """Adds ``-o table|json`` as the argument `output`."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice(["table", "json"]),
        default="table",
        help="A table to read, or a JSON list of flat objects.",
    )(command)


def flat(record: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"env": {"A": "1"}, "versions": [1, 2]}`` becomes ``{"env.A": "1", "versions": "1,2"}``."""
    row: dict[str, Any] = {}
    for key, value in record.items():
        if isinstance(value, dict):
            row |= flat(value, f"{prefix}{key}.")
        elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
            row |= flat({str(index): item for index, item in enumerate(value)}, f"{prefix}{key}.")
        elif isinstance(value, list):
            row[prefix + key] = ",".join(str(item) for item in value)
        else:
            row[prefix + key] = value
    return row


def show(output: str, records: Sequence[Mapping[str, Any]], columns: Sequence[str], empty: str) -> None:
    """``columns`` are the table's; JSON has every field. ``empty`` is said instead of a table without rows."""
    rows = [flat(record) for record in records]
    if output == "json":
        click.echo(json.dumps(rows, indent=2))
    elif rows:
        click.echo(table(rows, columns, bold=in_colour()))
    else:
        click.echo(empty, err=True)


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, bold: bool = False) -> str:
    """Numbers to the right, everything else to the left, two spaces between columns."""
    cells = [[_cell(row.get(column)) for column in columns] for row in rows]
    heads = [column.replace("_", " ").upper() for column in columns]
    widths = [max(len(cell) for cell in column) for column in zip(heads, *cells, strict=True)]
    numeric = [_is_numeric([row.get(column) for row in rows]) for column in columns]

    def line(values: list[str]) -> str:
        aligned = (
            value.rjust(width) if right else value.ljust(width)
            for value, width, right in zip(values, widths, numeric, strict=True)
        )
        return "  ".join(aligned).rstrip()

    head = click.style(line(heads), bold=True) if bold else line(heads)
    return "\n".join([head, *map(line, cells)])


def fields(record: Mapping[str, Any]) -> str:
    """One record as lines of ``name  value``."""
    row = flat(record)
    width = max(map(len, row))
    return "\n".join(f"{name.ljust(width)}  {_cell(value)}" for name, value in row.items())


def in_colour() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def _cell(value: object) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.1f}" if value % 1 else str(int(value))
    return str(value)


def _is_numeric(values: Sequence[object]) -> bool:
    """Numbers, and gaps between them."""
    known = [value for value in values if value is not None]
    return bool(known) and all(isinstance(value, int | float) and not isinstance(value, bool) for value in known)
