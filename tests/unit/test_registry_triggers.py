"""Triggers as users write them: one kind each, only what belongs to it, nothing that this platform does not grant."""

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mayfly_broker.access import Access
from mayfly_proto import records
from mayfly_registry import manifest, patterns, triggers
from mayfly_registry.allowed import Allowed
from mayfly_registry.errors import InvalidManifest

GRANTED = Allowed(
    access=Access(
        trigger_subjects=("sensors.*", "orders.>"),
        publish_subjects=("alerts.>",),
        kv_buckets=("carts",),
        object_buckets=("uploads",),
    )
)


def problems(*given: dict[str, Any], allowed: Allowed = GRANTED, **settings: Any) -> list[str]:
    try:
        manifest.check({"triggers": list(given), **settings}, allowed)
    except InvalidManifest as refused:
        return refused.problems
    return []


RIGHT: list[dict[str, Any]] = [
    {"event": "orders.*.created"},
    {"event": ">", "start": "all"},
    {"event": "a.>", "start": "2026-01-31T12:00:00+01:00"},
    {"stream": "ORDERS", "subject": "orders.*.paid", "start": "all"},
    {"subject": "sensors.*"},
    {"object": "uploads"},
    {"schedule": "*/5 * * * *", "timezone": "Europe/Amsterdam", "payload": {"a": [1, None]}, "missed": "all"},
    {"schedule": "0 9 * * mon-fri"},
    {"schedule": "@every 1h30m"},
    {"schedule": "@monthly"},
]


@pytest.mark.parametrize("trigger", RIGHT, ids=str)
def test_a_right_trigger_is_refused(trigger: dict[str, Any]) -> None:
    """Each kind, with what belongs to it."""
    assert problems(trigger) == []


WRONG: list[tuple[dict[str, Any], str]] = [
    ({}, "triggers[0]: says no kind of trigger: one of http, event, schedule, object, subject, as in"),
    ({"event": "a", "http": "/a"}, "triggers[0]: has http and event: one trigger is of one kind, so write two"),
    ({"event": "a", "timezone": "UTC"}, "triggers[0]: has timezone, which belongs to schedule triggers, not to event"),
    ({"http": "/a", "start": "all"}, "triggers[0]: has start, which belongs to event triggers, not to http ones"),
    ({"stream": "ORDERS"}, "triggers[0]: has a stream without a subject: write { stream ="),
    ({"subject": "sensors.*", "start": "all"}, "triggers[0]: has start, but a subject without a stream has no past"),
    ({"event": "a", "number": 3}, "triggers[0].number: no such setting"),
    ({"event": "event.orders.*"}, 'triggers[0].event: "event.orders.*" says event. twice: write "orders.*"'),
    ({"event": "a..b"}, 'triggers[0].event: "a..b" is no subject: words joined by dots'),
    ({"event": "a.>.b"}, 'triggers[0].event: "a.>.b" is no subject'),
    ({"event": "a b"}, 'triggers[0].event: "a b" is no subject'),
    ({"event": ""}, 'triggers[0].event: "" is no subject'),
    (
        {"event": "a", "start": "yesterday"},
        'triggers[0].start: "yesterday" must be "new", "all" or a time with its zone',
    ),
    ({"event": "a", "start": "2026-01-31T12:00:00"}, "triggers[0].start:"),
    ({"subject": "event.a"}, 'triggers[0].subject: "event.a" is an event: write event = "a"'),
    (
        {"subject": "stocks.>"},
        'triggers[0].subject: "stocks.>" may not trigger functions here: whoever runs the platform can add it to '
        "trigger_subjects in access.toml",
    ),
    ({"subject": "sensors.>"}, 'triggers[0].subject: "sensors.>" may not trigger functions here'),
    (
        {"subject": "orders.a", "stream": "EVENTS"},
        "triggers[0].stream: \"EVENTS\" is the platform's own, or a bucket's",
    ),
    ({"subject": "orders.a", "stream": "KV_carts"}, "triggers[0].stream:"),
    ({"subject": "orders.a", "stream": "A.B"}, 'triggers[0].stream: "A.B" is no stream\'s name'),
    ({"object": "secrets"}, 'triggers[0].object: "secrets" may not be used by functions here'),
    ({"schedule": "* * * *"}, 'triggers[0].schedule: "* * * *" has 4 fields: five are minute, hour, day, month'),
    ({"schedule": "61 * * * *"}, 'triggers[0].schedule: "61 * * * *" is no schedule: bad minute'),
    ({"schedule": "0 0 31 2 *"}, "triggers[0].schedule:"),
    ({"schedule": "0 0 L * *"}, 'triggers[0].schedule: "0 0 L * *" has L, W, ? or # for a day'),
    ({"schedule": "0 0 * * 1-7"}, 'triggers[0].schedule: "0 0 * * 1-7" has 7 for a weekday: Sunday is 0 or SUN'),
    ({"schedule": "0 0 */2 * MON"}, "triggers[0].schedule:"),
    ({"schedule": "@every 500ms"}, 'triggers[0].schedule: "@every 500ms" is no interval'),
    ({"schedule": "@every 0s"}, 'triggers[0].schedule: "@every 0s" is out of range: at least 1 s'),
    ({"schedule": "@every " + "9" * 30 + "h"}, "triggers[0].schedule:"),
    ({"schedule": "@reboot"}, 'triggers[0].schedule: "@reboot" is no word for a schedule: one of @hourly'),
    ({"schedule": "@hourly", "timezone": "Mars/Base"}, 'triggers[0].timezone: "Mars/Base" is no time zone'),
    ({"schedule": "@hourly", "timezone": "../etc/passwd"}, "triggers[0].timezone:"),
    ({"schedule": "@every 5s", "timezone": "UTC"}, 'triggers[0].timezone: "UTC" makes no difference to an interval'),
    ({"schedule": "@hourly", "payload": "x" * 65_536}, "triggers[0].payload: 65538 bytes of JSON are too many"),
    ({"schedule": "@hourly", "missed": "some"}, 'triggers[0].missed: "some" is not given by this platform'),
]


@pytest.mark.parametrize(("trigger", "sentence"), WRONG, ids=[str(trigger)[:60] for trigger, _ in WRONG])
def test_a_wrong_trigger_is_not_explained(trigger: dict[str, Any], sentence: str) -> None:
    """One sentence with the field, its value and what would be right."""
    (problem,) = problems(trigger)
    assert problem.startswith(sentence)


OVERLAPPING = [
    ({"event": "a.*"}, {"event": "*.b"}, "triggers: event a.* and event *.b take the same messages"),
    ({"subject": "orders.>"}, {"subject": "orders.a"}, "triggers: subject orders.> and subject orders.a take the same"),
    (
        {"stream": "S", "subject": "orders.>"},
        {"stream": "S", "subject": "orders.a"},
        "triggers: stream S orders.> and stream S orders.a take the same messages",
    ),
    (
        {"object": "uploads"},
        {"object": "uploads"},
        "triggers: object uploads and object uploads take the same messages",
    ),
    (
        {"schedule": "@hourly"},
        {"schedule": "@hourly", "payload": 1},
        "triggers: schedule @hourly and schedule @hourly are due at the same times",
    ),
]


@pytest.mark.parametrize(("one", "other", "sentence"), OVERLAPPING)
def test_two_triggers_run_the_function_twice(one: dict[str, Any], other: dict[str, Any], sentence: str) -> None:
    """Triggers of one function that overlap are refused, and both are named."""
    (problem,) = problems(one, other)
    assert problem.startswith(sentence)


def test_triggers_beside_each_other_are_refused() -> None:
    """Another stream, another zone, another word: no overlap."""
    assert not problems(
        {"event": "a.b"},
        {"event": "a.c"},
        {"event": "a.*.c"},
        {"stream": "S", "subject": "orders.a"},
        {"stream": "T", "subject": "orders.a"},
        {"subject": "orders.a"},
        {"schedule": "@hourly"},
        {"schedule": "@hourly", "timezone": "Asia/Kolkata"},
        {"http": "/a"},
    )


def test_granted_setting_is_refused() -> None:
    """What access.toml grants, and events always."""
    assert not problems(
        publish=["event.>", "alerts.*"],
        kv=["carts"],
        objects=["uploads"],
        on_success="alerts.done",
        on_failure="event.x",
        call=["*", "billing.>"],
    )


def test_description_of_a_trigger_is_not_what_was_written() -> None:
    """`mayfly ls` shows every kind shortly."""
    shown = [triggers.describe(triggers.Trigger.model_validate(given, context=GRANTED).record()) for given in RIGHT[:8]]
    assert shown == [
        "event orders.*.created",
        "event >",
        "event a.>",
        "stream ORDERS orders.*.paid",
        "subject sensors.*",
        "object uploads",
        "schedule */5 * * * * Europe/Amsterdam",
        "schedule 0 9 * * mon-fri",
    ]
    assert triggers.describe(records.Trigger(http="/a", methods=["GET"])) == "GET /a"


word = st.sampled_from(["a", "b", "*"])
pattern = st.builds(
    lambda words, rest: ".".join([*words, *([">"] if rest else [])]),
    st.lists(word, min_size=1, max_size=3),
    st.booleans(),
)
SUBJECTS = [".".join(words) for length in range(1, 5) for words in itertools.product("abc", repeat=length)]


def fits(pattern: str, subject: str) -> bool:
    """NATS's own rule, token by token."""
    wanted, given = pattern.split("."), subject.split(".")
    if wanted[-1] == ">":
        return len(given) >= len(wanted) and all(w in ("*", g) for w, g in zip(wanted[:-1], given, strict=False))
    return len(wanted) == len(given) and all(w in ("*", g) for w, g in zip(wanted, given, strict=True))


@given(pattern, pattern)
def test_overlap_is_not_a_subject_in_common(one: str, other: str) -> None:
    """Two patterns overlap exactly when some subject fits both."""
    common = any(fits(one, subject) and fits(other, subject) for subject in SUBJECTS)
    assert patterns.overlap(one, other) is patterns.overlap(other, one) is common
