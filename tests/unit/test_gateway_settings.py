"""Settings as query parameters, times as people write them."""

from datetime import UTC, datetime, timedelta

import pytest

from mayfly_gateway import settings
from mayfly_gateway.lines import parse_since
from mayfly_proto.errors import CallError, ErrorType
from mayfly_registry.manifest import Settings

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


def test_every_setting_of_the_registry_is_a_parameter() -> None:
    """Whatever a manifest may say can be said in a query, under the same name."""
    assert set(settings.FIELDS) == set(Settings.model_fields)
    assert [parameter["name"] for parameter in settings.parameters()] == list(settings.FIELDS)


def test_values_take_the_type_of_their_setting() -> None:
    """The registry gets numbers as numbers and objects as objects."""
    query = [("memory", "256"), ("timeout", "2.5"), ("idempotent", "true"), ("handler", "a:b"), ("env", '{"A":"b"}')]
    assert settings.from_query(query) == {
        "memory": 256,
        "timeout": 2.5,
        "idempotent": True,
        "handler": "a:b",
        "env": {"A": "b"},
    }


@pytest.mark.parametrize(("text", "value"), [("auto", "auto"), ("90", 90), ("0.5", 0.5), ("soon", "soon")])
def test_a_keep_alive_is_a_number_or_a_word(text: str, value: float | str) -> None:
    """One setting has two types; what is of neither goes on for the registry to say."""
    assert settings.from_query([("keep_alive", text)]) == {"keep_alive": value}


def test_no_setting_is_none() -> None:
    """Without settings a package's own mayfly.toml counts."""
    assert settings.from_query([]) is None


def test_what_is_wrong_goes_on_for_the_registry_to_say() -> None:
    """A value of the wrong type, or a name that does not exist, is refused in the registry's words."""
    assert settings.from_query([("memory", "lots"), ("memmory", "1")]) == {"memory": "lots", "memmory": "1"}


def test_broken_json_is_named() -> None:
    """Only the gateway sees that text, so only it can say that it is no JSON."""
    with pytest.raises(CallError) as caught:
        settings.from_query([("env", "{A}")])
    assert caught.value.kind is ErrorType.BAD_REQUEST
    assert "env" in caught.value.message


@pytest.mark.parametrize(
    ("text", "before"),
    [("90s", timedelta(seconds=90)), ("10m", timedelta(minutes=10)), ("2h", timedelta(hours=2)), ("7d", timedelta(7))],
)
def test_since_a_while_ago(text: str, before: timedelta) -> None:
    """Durations count back from now."""
    assert parse_since(text, NOW) == NOW - before


def test_since_a_time() -> None:
    """A time without a zone is UTC; one with a zone is converted."""
    assert parse_since("2026-05-01T10:00:00", NOW) == NOW - timedelta(hours=2)
    assert parse_since("2026-05-01T10:00:00+02:00", NOW) == NOW - timedelta(hours=4)
    assert parse_since("999999999d", NOW) < NOW


@pytest.mark.parametrize("text", ["", "yesterday", "10", "10 m", "-5m", "\N{ARABIC-INDIC DIGIT ONE}m"])
def test_since_that_is_no_time_is_refused(text: str) -> None:
    """The message says what would be right."""
    with pytest.raises(ValueError, match="must be like"):
        parse_since(text, NOW)
