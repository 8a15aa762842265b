"""What makes a function run, as users write it: one kind, and the fields that belong to it."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal

import msgspec
from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator, model_validator

from mayfly_proto import records, storage, subjects
from mayfly_registry import http_paths, numbers, patterns, schedules
from mayfly_registry.allowed import NOTHING, Allowed
from mayfly_registry.problems import shown, wrong

PAYLOAD_LIMIT = 64 * 1024  # bytes of JSON

_EXAMPLES = {
    "http": '{ http = "/orders/{id}" }',
    "event": '{ event = "orders.*.created" }',
    "schedule": '{ schedule = "*/5 * * * *" }',
    "object": '{ object = "uploads" }',
    "subject": '{ subject = "sensors.>" }',
}
_FIELDS = {  # which belong to which kind
    "http": {"methods"},
    "event": {"start"},
    "schedule": {"timezone", "payload", "missed"},
    "object": {"start"},
    "subject": {"stream", "start"},
}
_KIND_OF_STREAM = "stream"  # beside `subject`


STRICT = ConfigDict(frozen=True, extra="forbid", strict=True)  # of all that is checked of a manifest


def allowed_by(info: ValidationInfo) -> Allowed:
    """What models are validated with as their context."""
    return info.context if isinstance(info.context, Allowed) else NOTHING


def checked_schedule(schedule: str) -> str:
    """Raises what validators raise."""
    schedule = " ".join(schedule.split())
    try:
        schedules.check(schedule)
    except schedules.InvalidSchedule as error:
        raise wrong(f"{shown(schedule)} {error}") from None
    return schedule


class Trigger(BaseModel):
    model_config = STRICT

    http: str = ""
    methods: list[str] = []
    event: str = ""
    stream: str = ""
    subject: str = ""
    schedule: str = ""
    timezone: str = ""
    payload: Any = None
    missed: Literal["latest", "all"] = "latest"
    object: str = ""
    start: str = "new"

    @model_validator(mode="before")
    @classmethod
    def _one_kind(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        kinds = [kind for kind in _EXAMPLES if kind in given]
        if not kinds:
            raise wrong(_no_kind(given))
        if len(kinds) > 1:
            raise wrong(f"has {' and '.join(kinds)}: one trigger is of one kind, so write two")
        foreign = [
            field for field in given if field in cls.model_fields and field not in _FIELDS[kinds[0]] | {kinds[0]}
        ]
        if foreign:
            theirs = next(kind for kind in _FIELDS if foreign[0] in _FIELDS[kind])
            raise wrong(f"has {foreign[0]}, which belongs to {theirs} triggers, not to {kinds[0]} ones")
        if kinds == ["subject"] and "start" in given and "stream" not in given:
            raise wrong("has start, but a subject without a stream has no past: nothing keeps what is published there")
        return given

    @field_validator("http")
    @classmethod
    def _template(cls, http: str) -> str:
        try:
            http_paths.shape(http)
        except http_paths.InvalidPath as error:
            raise wrong(f"{shown(http)} {error}") from None
        return http

    @field_validator("methods")
    @classmethod
    def _methods(cls, methods: list[str]) -> list[str]:
        for method in methods:
            if method.upper() not in http_paths.METHODS:
                raise wrong(f"{shown(method)} is no HTTP method: one of {', '.join(http_paths.METHODS)}")
        return sorted({method.upper() for method in methods})

    @field_validator("event")
    @classmethod
    def _event(cls, event: str) -> str:
        prefix = subjects.event("")
        if event.startswith(prefix):
            raise wrong(f"{shown(event)} says {prefix} twice: write {shown(event.removeprefix(prefix))}")
        if not patterns.is_pattern(event):
            raise wrong(f"{shown(event)} is no subject: {patterns.RULE}")
        return event

    @field_validator("subject")
    @classmethod
    def _subject(cls, subject: str, info: ValidationInfo) -> str:
        if not patterns.is_pattern(subject):
            raise wrong(f"{shown(subject)} is no subject: {patterns.RULE}")
        if subject.startswith(prefix := subjects.event("")):
            raise wrong(f"{shown(subject)} is an event: write event = {shown(subject.removeprefix(prefix))}")
        if refused := allowed_by(info).triggering(subject):
            raise wrong(f"{shown(subject)} {refused}")
        return subject

    @field_validator("stream")
    @classmethod
    def _stream(cls, stream: str) -> str:
        if not patterns.is_plain(stream) or "." in stream or "/" in stream:
            raise wrong(f"{shown(stream)} is no stream's name")
        bucket = stream.partition("_")[2]
        if stream in (*storage.STREAMS, subjects.kv_stream(bucket), subjects.object_stream(bucket)):
            raise wrong(f"{shown(stream)} is the platform's own, or a bucket's: name a stream of yours")
        return stream

    @field_validator("object")
    @classmethod
    def _object(cls, bucket: str, info: ValidationInfo) -> str:
        if refused := allowed_by(info).objects(bucket):
            raise wrong(f"{shown(bucket)} {refused}")
        return bucket

    @field_validator("schedule")
    @classmethod
    def _schedule(cls, schedule: str) -> str:
        return checked_schedule(schedule)

    @field_validator("timezone")
    @classmethod
    def _timezone(cls, timezone: str, info: ValidationInfo) -> str:
        if schedules.every(info.data.get("schedule", "")):
            raise wrong(f"{shown(timezone)} makes no difference to an interval: leave it out")
        if not schedules.is_zone(timezone):
            raise wrong(f"{shown(timezone)} {schedules.NO_ZONE}")
        return timezone

    @field_validator("payload")
    @classmethod
    def _payload(cls, payload: Any) -> Any:
        try:
            size = len(msgspec.json.encode(payload))
        except (TypeError, ValueError, RecursionError):
            raise wrong(f"{shown(payload)} cannot be written as JSON") from None
        if size > PAYLOAD_LIMIT:
            raise wrong(f"{size} bytes of JSON are too many: at most {PAYLOAD_LIMIT}")
        return payload

    @field_validator("start")
    @classmethod
    def _start(cls, start: str) -> str:
        if start in ("new", "all"):
            return start
        try:
            if "T" not in start or datetime.fromisoformat(start).tzinfo is None:
                raise ValueError
        except ValueError:
            example = "2026-01-31T12:00:00Z"
            raise wrong(f'{shown(start)} must be "new", "all" or a time with its zone, as {example}') from None
        return start

    def record(self) -> records.Trigger:
        return records.Trigger(**self.model_dump())


def clash(triggers: Sequence[Trigger]) -> str:
    """Two triggers that would both run the function for the same thing, as a sentence; "" when there are none."""
    found = [trigger.record() for trigger in triggers]
    for index, trigger in enumerate(found):
        for other in found[:index]:
            if same := _same(other, trigger):
                return f"{describe(other)} and {describe(trigger)} {same}: leave one of them out"
    return ""


def describe(trigger: records.Trigger) -> str:
    """``event orders.*.created``, ``schedule */5 * * * * Europe/Amsterdam``, ``GET /orders/{id}`` ..."""
    if trigger.http:
        return http_paths.describe(trigger)
    if trigger.event:
        return f"event {trigger.event}"
    if trigger.schedule:
        return f"schedule {trigger.schedule} {trigger.timezone}".strip()
    if trigger.object:
        return f"object {trigger.object}"
    return f"stream {trigger.stream} {trigger.subject}" if trigger.stream else f"subject {trigger.subject}"


def _same(one: records.Trigger, other: records.Trigger) -> str:
    if one.http and other.http:
        return "take the same requests" if http_paths.overlap(one, other) else ""
    if one.schedule or other.schedule:
        return "are due at the same times" if numbers.identity(one) == numbers.identity(other) else ""
    if one.http or other.http or one.durable_stream != other.durable_stream:
        return ""
    return "take the same messages" if patterns.overlap(one.filter_subject, other.filter_subject) else ""


def _no_kind(given: dict[Any, Any]) -> str:
    if _KIND_OF_STREAM in given:
        return 'has a stream without a subject: write { stream = "ORDERS", subject = "orders.>" }'
    stray = next((key for key in given if key not in Trigger.model_fields), None)
    named = f"{shown(stray)} is no kind of trigger" if stray is not None else "says no kind of trigger"
    return f"{named}: one of {', '.join(_EXAMPLES)}, as in {_EXAMPLES['event']}"
