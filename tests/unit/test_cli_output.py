"""What reading commands print, and how commands fail."""

import json

import pytest

from mayfly.cli.failure import Exit, failure_of
from mayfly.cli.output import fields, flat, table
from mayfly_proto.errors import CallError, ErrorType

EXITS = {
    ErrorType.FUNCTION_ERROR: 3,
    ErrorType.BAD_RESULT: 3,
    ErrorType.INIT_FAILED: 3,
    ErrorType.INSTANCE_CRASHED: 3,
    ErrorType.OUT_OF_MEMORY: 3,
    ErrorType.NOT_FOUND: 4,
    ErrorType.FUNCTION_TIMEOUT: 5,
    ErrorType.DEADLINE_EXCEEDED: 5,
    ErrorType.THROTTLED: 6,
}


@pytest.mark.parametrize("kind", ErrorType, ids=lambda kind: kind.value)
def test_every_error_has_its_exit_code(kind: ErrorType) -> None:
    """Scripts tell a function's error from a missing one, a slow one, a busy one and a broken platform."""
    failure = failure_of(kind.code, CallError(kind, "the reason", component="router", traceback="Traceback").body())
    assert failure is not None
    assert failure.exit_code == EXITS.get(kind, Exit.PLATFORM)
    assert failure.message == f"the reason ({kind.code} {kind.value})"
    assert failure.detail == "Traceback"


def test_who_is_throttled_is_told_until_when() -> None:
    """The header says it, and a person sees no header; for other errors it is the platform's guess, and is not said."""
    body = CallError(ErrorType.THROTTLED, "busy", component="router").body()
    assert str(failure_of(429, body, "7")) == "busy (429 throttled); try again in 7 s"
    body = CallError(ErrorType.UNAVAILABLE, "away", component="gateway").body()
    assert str(failure_of(503, body, "1")) == "away (503 unavailable)"


@pytest.mark.parametrize("body", [b"", b"not found", b"[]", b'{"error": "mine"}', b'{"error": {"code": 404}}'])
def test_functions_own_error_is_not_taken_for_the_platforms(body: bytes) -> None:
    """A handler may answer with status 404 and any body it likes."""
    assert failure_of(404, body) is None


def test_rows_are_flat_whatever_the_record() -> None:
    """`-o json` gives flat objects: nested ones get dotted names, lists become text."""
    record = {"name": "hello", "env": {"A": "1"}, "versions": [1, 2], "triggers": [{"http": "/x", "methods": ["GET"]}]}
    row = flat(record)
    assert row == {
        "name": "hello",
        "env.A": "1",
        "versions": "1,2",
        "triggers.0.http": "/x",
        "triggers.0.methods": "GET",
    }
    assert not any(isinstance(value, dict | list) for value in json.loads(json.dumps(row)).values())


def test_table_is_aligned_without_trailing_space() -> None:
    """Text to the left, numbers to the right, a dash for what is missing."""
    rows = [{"name": "a", "calls": 5, "idle_s": 1.25}, {"name": "longer", "calls": 1234, "idle_s": None}]
    assert table(rows, ("name", "calls", "idle_s")).splitlines() == [
        "NAME    CALLS  IDLE S",
        "a           5     1.2",
        "longer   1234       -",
    ]


def test_one_record_is_a_line_for_each_field() -> None:
    """`describe` for people."""
    assert fields({"name": "hello", "draining": False, "timeout": 3.0}) == "name      hello\ndraining  no\ntimeout   3"
